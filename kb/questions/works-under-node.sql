-- title: Which works stand under a node, node by node?
-- description: All works of the node and of everything below it, in the order of the tree.
-- parameter: node=fragility
SELECT d.id AS node, d.name, d.depth, w.key AS work, w.title, w.year, e.relation,
       e.evidence AS edge_evidence, e.note
FROM nodes AS n
JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
JOIN edges AS e ON e.node = d.id
JOIN works AS w ON w.key = e.work
WHERE n.id = :node
ORDER BY d.tree_enter, e.relation, w.year, w.key
