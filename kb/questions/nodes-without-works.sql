-- title: Which nodes have no work at all?
-- description: Nodes that no work points to.
SELECT n.id AS node, n.name, n.kind, n.survey_section
FROM nodes AS n
WHERE NOT EXISTS (SELECT 1 FROM edges AS e WHERE e.node = n.id)
ORDER BY n.tree_enter
