-- title: Which nodes can be measured with this version of km, on a plain CPU?
-- description: Nodes an available measure bears on, and how much evidence is recorded.
SELECT n.id AS node, n.name, n.kind, m.id AS measure, m.title,
       (SELECT count(*) FROM evidence AS e WHERE e.node = n.id AND e.measure = m.id) AS evidence
FROM nodes AS n
JOIN measure_nodes AS mn ON mn.node = n.id
JOIN measures AS m ON m.id = mn.measure AND m.status <> 'planned'
ORDER BY n.tree_enter, m.id
