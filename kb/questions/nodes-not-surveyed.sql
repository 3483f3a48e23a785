-- title: Which nodes does a survey leave out?
-- description: Nodes the survey does not point to, neither directly nor through a node above them.
-- parameter: work
SELECT d.id AS node, d.name, d.kind, d.depth
FROM nodes AS d
WHERE EXISTS (SELECT 1 FROM edges WHERE work = :work AND relation = 'surveys')
  AND NOT EXISTS (
      SELECT 1
      FROM edges AS e
      JOIN nodes AS s ON s.id = e.node
      WHERE e.work = :work AND e.relation = 'surveys'
        AND d.tree_enter BETWEEN s.tree_enter AND s.tree_leave)
ORDER BY d.tree_enter
