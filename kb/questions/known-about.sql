-- title: What is known about a node: by the literature, by my runs, and what could be measured?
-- description: Works one by one, then the newest evidence of each model, verdicts, and measures; `part` says which. Nothing is summed. The types of conflict are conflict-internal, conflict-context-memory and conflict-inter-context.
-- parameter: node=conflict-context-memory
WITH below AS (
    SELECT d.id, d.tree_enter
    FROM nodes AS n
    JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
    WHERE n.id = :node
)
SELECT part, node, what, says, value, low, high, n, unit, model, year, mark, note
FROM (
    SELECT 1 AS place, b.tree_enter, 'literature' AS part, b.id AS node, w.key AS what,
           e.relation AS says, NULL AS value, NULL AS low, NULL AS high, NULL AS n, NULL AS unit,
           NULL AS model, w.year, e.evidence AS mark, e.note
    FROM below AS b JOIN edges AS e ON e.node = b.id JOIN works AS w ON w.key = e.work
    UNION ALL
    SELECT 2, b.tree_enter, 'evidence', b.id, l.measure, l.statistic, l.value, l.low, l.high, l.n,
           l.unit, l.model, CAST(substr(l.finished, 1, 4) AS INTEGER), 'run ' || l.run, l.note
    FROM below AS b JOIN latest_evidence AS l ON l.node = b.id
    UNION ALL
    SELECT 3, b.tree_enter, 'verdict', b.id, g.prediction, g.word, g.estimate, g.low, g.high, g.n,
           g.unit, g.model, CAST(substr(g.judged, 1, 4) AS INTEGER), 'run ' || g.run, g.statement
    FROM below AS b
    JOIN prediction_nodes AS pn ON pn.node = b.id
    JOIN ledger AS g ON g.prediction_digest = pn.prediction
    UNION ALL
    SELECT 4, b.tree_enter, 'measure', b.id, m.id, m.status, NULL, NULL, NULL, NULL, NULL, NULL,
           NULL, NULL, m.title
    FROM below AS b JOIN measure_nodes AS mn ON mn.node = b.id
    JOIN measures AS m ON m.id = mn.measure
)
ORDER BY place, tree_enter, year, what, says, model
