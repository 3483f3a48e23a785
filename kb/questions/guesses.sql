-- title: What in the literature part is our guess, to be checked first?
-- description: Edges whose evidence mark is "guess".
SELECT n.id AS node, n.name, e.relation, w.key AS work, w.title, w.year, e.note
FROM edges AS e
JOIN nodes AS n ON n.id = e.node
JOIN works AS w ON w.key = e.work
WHERE e.evidence = 'guess'
ORDER BY e.relation = 'contradicts' DESC, n.tree_enter, w.key
