-- title: What is the path from the root to a node, and what stands beside it?
-- description: The path from the root, then the siblings of the node.
-- parameter: node=knowledge-circuits
SELECT 'path' AS place, a.depth AS depth, a.id AS node, a.name AS name, a.kind AS kind,
       a.summary AS summary
FROM nodes AS n
JOIN nodes AS a ON n.tree_enter BETWEEN a.tree_enter AND a.tree_leave
WHERE n.id = :node
UNION ALL
SELECT 'sibling', s.depth, s.id, s.name, s.kind, s.summary
FROM nodes AS n
JOIN nodes AS s ON s.parent = n.parent AND s.id <> n.id
WHERE n.id = :node
ORDER BY place, depth
