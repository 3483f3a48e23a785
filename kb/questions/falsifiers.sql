-- title: What would falsify a hypothesis: which measure, with which sign?
-- description: One row a measure that bears on the node or below it and a prediction frozen here; `against` is the outcome that speaks against it. Measures without a frozen prediction have nulls: a prediction has to be frozen before a run can speak for or against.
-- parameter: node=hyp-modular-region
WITH stated AS (
    SELECT pn.node, p.*
    FROM prediction_nodes AS pn JOIN predictions AS p ON p.digest = pn.prediction
), pairs AS (
    SELECT mn.node, mn.measure, s.digest
    FROM measure_nodes AS mn
    LEFT JOIN stated AS s ON s.node = mn.node AND s.measure = mn.measure
    UNION ALL
    SELECT s.node, s.measure, s.digest
    FROM stated AS s
    WHERE NOT EXISTS (SELECT 1 FROM measure_nodes AS mn
                      WHERE mn.node = s.node AND mn.measure IS s.measure)
)
SELECT d.id AS node, d.name, x.measure, m.status, p.id AS prediction, p.version, p.statistic,
       p.direction,
       CASE p.direction WHEN 'above' THEN 'below ' || p.no_effect
                        WHEN 'below' THEN 'above ' || p.no_effect
                        WHEN 'different' THEN 'within ' || p.smallest || ' of ' || p.no_effect END
           AS against,
       p.unit, p.falsified_by, p.kind, nullif(p.not_testable, '') AS not_testable
FROM nodes AS n
JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
JOIN pairs AS x ON x.node = d.id
LEFT JOIN measures AS m ON m.id = x.measure
LEFT JOIN predictions AS p ON p.digest = x.digest
WHERE n.id = :node
ORDER BY d.tree_enter, x.measure, p.id, p.version
