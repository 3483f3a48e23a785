-- title: How does a run of mine change the verdicts on a node and what lies below it?
-- description: One row a verdict of the run (default: the newest run with one), beside the verdict that the same prediction and unit had before; word_before is null for the first. A verdict is about its unit alone, and earlier ones stay.
-- parameter: node=root
-- parameter: run=
WITH asked AS (
    SELECT coalesce(:run, (SELECT run FROM verdicts ORDER BY judged DESC, id DESC LIMIT 1)) AS run
), touched AS (
    SELECT DISTINCT pn.prediction
    FROM nodes AS n
    JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
    JOIN prediction_nodes AS pn ON pn.node = d.id
    WHERE n.id = :node
), history AS (
    SELECT v.id, v.run, lag(v.word) OVER of_one AS word_before,
           lag(v.estimate) OVER of_one AS estimate_before, lag(v.run) OVER of_one AS run_before
    FROM verdicts AS v
    JOIN freezings AS f ON f.id = v.freezing
    WINDOW of_one AS (PARTITION BY f.prediction, f.unit ORDER BY v.judged, v.id)
)
SELECT l.prediction, l.version, h.word_before, l.word, l.word IS NOT h.word_before AS changed,
       h.estimate_before, l.estimate, l.low, l.high, l.unit, l.n, l.n_unit, l.model, l.precision,
       l.kind, l.family, l.basis, h.run_before, l.run, l.statement, l.falsified_by
FROM asked AS a
JOIN history AS h ON h.run = a.run
JOIN ledger AS l ON l.verdict = h.id
JOIN touched AS t ON t.prediction = l.prediction_digest
ORDER BY l.prediction, l.version, l.verdict
