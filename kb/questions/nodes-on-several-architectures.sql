-- title: On which nodes is there evidence from more than one architecture?
-- description: Nodes with evidence of my runs from two or more architectures.
SELECT n.id AS node, n.name, count(DISTINCT m.architecture) AS architectures,
       group_concat(DISTINCT m.architecture) AS names, count(DISTINCT m.id) AS models
FROM evidence AS e
JOIN runs AS r ON r.id = e.run AND r.status = 'done'
JOIN models AS m ON m.id = r.model
JOIN nodes AS n ON n.id = e.node
GROUP BY n.id
HAVING count(DISTINCT m.architecture) >= 2
ORDER BY n.tree_enter
