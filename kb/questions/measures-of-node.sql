-- title: Which measures of km bear on a node or on something below it?
-- description: One row a measure and node.
-- parameter: node=memorization
SELECT m.id AS measure, m.title, m.status, d.id AS node, d.name
FROM nodes AS n
JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
JOIN measure_nodes AS mn ON mn.node = d.id
JOIN measures AS m ON m.id = mn.measure
WHERE n.id = :node
ORDER BY d.tree_enter, m.id
