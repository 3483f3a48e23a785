-- title: Of how many facts of each relation did a run rank the answer first under most prompts?
-- description: Counts facts, not prompts, so that an interval of a share may take them as they are.
-- parameter: run=
WITH chosen AS (
    SELECT k.id AS chunk
    FROM runs AS r
    JOIN run_chunks AS c ON c.run = r.id
    JOIN chunks AS k ON k.id = c.chunk
    WHERE r.id = coalesce(:run, (SELECT max(id) FROM runs
                                 WHERE measure = 'memorization.recall' AND status = 'done'))
      AND NOT EXISTS (SELECT 1 FROM json_each(r.parameters, '$.relations') AS part
                      WHERE part.value ->> 'control' = k.key)
), asked AS (
    SELECT m.data ->> 'relation' AS relation, m.data ->> 'fact' AS fact,
           avg(m.data ->> 'correct') AS share, avg(m.data ->> 'commonest_correct') AS commonest
    FROM chosen
    JOIN measurements AS m ON m.chunk = chosen.chunk
    WHERE m.data ->> 'correct' IS NOT NULL
    GROUP BY relation, fact
)
SELECT relation, count(*) AS facts, sum(share > 0.5) AS recalled,
       sum(commonest > 0.5) AS commonest
FROM asked
GROUP BY relation
ORDER BY relation
