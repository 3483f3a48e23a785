-- Schema version 4: "newest" is what was finished last. Rows of another file, merged into this one,
-- come with later numbers than they were measured, so that numbers no longer tell.

DROP VIEW IF EXISTS latest_evidence;

-- The newest evidence of each node, measure, statistic and model, from finished runs.
CREATE VIEW latest_evidence AS
SELECT id, run, node, measure, statistic, value, low, high, n, unit, baseline, note, model,
       fingerprint, precision, finished
FROM (
    SELECT e.*, m.name AS model, m.fingerprint, m.precision, r.finished,
           row_number() OVER (PARTITION BY e.node, e.measure, e.statistic, r.model
                              ORDER BY r.finished DESC, e.id DESC) AS age
    FROM evidence AS e
    JOIN runs AS r ON r.id = e.run AND r.status = 'done'
    LEFT JOIN models AS m ON m.id = r.model
)
WHERE age = 1;
