-- title: Which works contradict what?
-- description: One row a work and node, hypotheses or not.
SELECT n.id AS node, n.name, n.kind, w.key AS work, w.title, w.year, e.evidence AS edge_evidence,
       e.note
FROM edges AS e
JOIN nodes AS n ON n.id = e.node
JOIN works AS w ON w.key = e.work
WHERE e.relation = 'contradicts'
ORDER BY n.tree_enter, w.year, w.key
