-- title: Which runs are recorded, newest first?
-- description: One row a run with its model and what it stored.
SELECT r.id AS run, r.measure, r.version, r.status, m.name AS model, m.precision, r.seed,
       r.started, r.finished,
       (SELECT count(*) FROM run_chunks AS c WHERE c.run = r.id) AS chunks,
       (SELECT coalesce(sum(c.n_rows), 0) FROM run_chunks AS rc JOIN chunks AS c ON c.id = rc.chunk
        WHERE rc.run = r.id) AS rows,
       (SELECT count(*) FROM evidence AS e WHERE e.run = r.id) AS evidence,
       r.km_version, r.cpu, r.blas_core, r.command
FROM runs AS r
LEFT JOIN models AS m ON m.id = r.model
ORDER BY r.id DESC
