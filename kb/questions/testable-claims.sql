-- title: Which claims of the literature can be tested on a CPU with what km brings along?
-- description: One row a claim (a work that proposes, supports or contradicts a node) and a measure of this version that bears on the node itself; predictions counts those frozen here for the measure and node. kind "observation" or "intervention" of a prediction decides what it may move.
-- parameter: node=root
SELECT d.id AS node, d.name, d.kind, e.relation, w.key AS work, w.title, w.year,
       e.evidence AS edge_evidence, m.id AS measure, m.title AS measure_title,
       (SELECT count(*) FROM prediction_nodes AS pn JOIN predictions AS p ON p.digest = pn.prediction
        WHERE pn.node = d.id AND p.measure = m.id) AS predictions
FROM nodes AS n
JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
JOIN edges AS e ON e.node = d.id AND e.relation IN ('proposes', 'supports', 'contradicts')
JOIN works AS w ON w.key = e.work
JOIN measure_nodes AS mn ON mn.node = d.id
JOIN measures AS m ON m.id = mn.measure AND m.status <> 'planned'
WHERE n.id = :node
ORDER BY d.tree_enter, e.relation, w.year, w.key, m.id
