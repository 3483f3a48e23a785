-- title: Which of the works km implements share a node?
-- description: One row a node with two or more of them.
SELECT n.id AS node, n.name, count(*) AS seeds, group_concat(s.work, ', ') AS works
FROM seed_places AS s
JOIN nodes AS n ON n.id = s.node
GROUP BY n.id
HAVING count(*) >= 2
ORDER BY n.tree_enter
