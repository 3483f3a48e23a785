-- title: Which phenomena have a proposed mechanism, and which have none?
-- description: Phenomena with the number of works that propose something for them; none first.
SELECT n.id AS node, n.name, count(e.work) AS proposing_works, group_concat(e.work, ', ') AS works
FROM nodes AS n
LEFT JOIN edges AS e ON e.node = n.id AND e.relation = 'proposes'
WHERE n.kind = 'phenomenon'
GROUP BY n.id
ORDER BY count(e.work) > 0, n.tree_enter
