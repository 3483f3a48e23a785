-- title: Which nodes are supported by works of a single year only?
-- description: Nodes whose supporting works, two or more, all come from one year.
SELECT n.id AS node, n.name, n.kind, min(w.year) AS year, count(*) AS supporting_works
FROM nodes AS n
JOIN edges AS e ON e.node = n.id AND e.relation = 'supports'
JOIN works AS w ON w.key = e.work
GROUP BY n.id
HAVING count(DISTINCT w.year) = 1 AND count(*) >= 2
ORDER BY n.tree_enter
