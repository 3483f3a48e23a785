-- title: Which works measure a node?
-- description: Works that measure the node, with the note on how where there is one.
-- parameter: node=editing-side-effects
SELECT w.key AS work, w.title, w.year, w.venue, e.evidence AS edge_evidence, e.note
FROM edges AS e
JOIN works AS w ON w.key = e.work
WHERE e.node = :node AND e.relation = 'measures'
ORDER BY w.year, w.key
