-- title: Where did the same measurement give other values?
-- description: Chunks measured twice with different results; the first values are the ones kept.
SELECT k.key AS chunk, a.id AS first_run, b.id AS second_run, x.max_difference, x.found,
       a.measure, a.cpu AS first_cpu, b.cpu AS second_cpu, a.blas_core AS first_blas,
       b.blas_core AS second_blas
FROM conflicts AS x
JOIN chunks AS k ON k.id = x.chunk
JOIN runs AS a ON a.id = k.run
JOIN runs AS b ON b.id = x.run
ORDER BY x.id DESC
