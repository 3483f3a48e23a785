-- title: Which predictions are frozen for a node and what lies below it, and what would falsify them?
-- description: One row a prediction and rival explanation, with the verdicts it has had; rival is null where none is named. not_testable says why a prediction cannot be tested here.
-- parameter: node=root
SELECT p.id AS prediction, p.version, p.statement, p.measure, p.statistic, p.direction,
       p.no_effect, p.smallest, p.unit, p.minimum_n, p.n_unit, p.kind, p.family, p.falsified_by,
       nullif(p.not_testable, '') AS not_testable, r.rival,
       (SELECT min(f.frozen) FROM freezings AS f WHERE f.prediction = p.digest) AS first_frozen,
       (SELECT count(*) FROM ledger AS l WHERE l.prediction_digest = p.digest) AS verdicts,
       p.digest
FROM predictions AS p
LEFT JOIN rivals AS r ON r.prediction = p.digest
WHERE p.digest IN (
    SELECT pn.prediction
    FROM nodes AS n
    JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
    JOIN prediction_nodes AS pn ON pn.node = d.id
    WHERE n.id = :node
)
ORDER BY p.id, p.version, r.position
