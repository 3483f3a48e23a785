-- title: What do my runs say about the predictions on a node and what lies below it?
-- description: Every verdict, newest first, with the unit it is about: "consistent" holds for this model, precision, prompts, facts and recipe. basis "release": the prediction was fixed by km's release, not for this unit before the run. Not to be counted up.
-- parameter: node=root
SELECT l.prediction, l.version, l.word, l.estimate, l.low, l.high, l.unit, l.n, l.n_unit, l.p_value,
       l.model, l.precision, l.family, l.kind, l.basis, l.frozen, l.judged, l.run, l.verdict,
       l.statement, l.rows, l.command, l.prediction_digest, l.unit_digest
FROM nodes AS n
JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
JOIN prediction_nodes AS pn ON pn.node = d.id
JOIN ledger AS l ON l.prediction_digest = pn.prediction
WHERE n.id = :node
GROUP BY l.verdict
ORDER BY l.judged DESC, l.verdict DESC
