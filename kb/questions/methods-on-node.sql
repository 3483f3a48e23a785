-- title: Which analysis methods do the works on a node use, and are interventions among them?
-- description: Methods that works on the node (or below it) propose, support or measure.
-- parameter: node=memorization
SELECT m.id AS method, m.name,
       m.id IN (SELECT d.id FROM nodes AS i
                JOIN nodes AS d ON d.tree_enter BETWEEN i.tree_enter AND i.tree_leave
                WHERE i.id = 'intervention-methods') AS intervention,
       count(DISTINCT me.work) AS works, group_concat(DISTINCT me.work) AS work_keys
FROM nodes AS n
JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
JOIN edges AS e ON e.node = d.id
JOIN edges AS me ON me.work = e.work AND me.relation <> 'surveys'
JOIN nodes AS m ON m.id = me.node AND m.kind = 'analysis_method'
WHERE n.id = :node
GROUP BY m.id
ORDER BY works DESC, m.id
