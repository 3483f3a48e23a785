-- title: How much of each relation did a run recall, beside what needs no knowledge?
-- description: Shares over facts and templates of a run (default: the newest that is done).
-- parameter: run=
WITH chosen AS (
    SELECT k.id AS chunk,
           EXISTS (SELECT 1 FROM json_each(r.parameters, '$.relations') AS part
                   WHERE part.value ->> 'control' = k.key) AS random_weights
    FROM runs AS r
    JOIN run_chunks AS c ON c.run = r.id
    JOIN chunks AS k ON k.id = c.chunk
    WHERE r.id = coalesce(:run, (SELECT max(id) FROM runs
                                 WHERE measure = 'memorization.recall' AND status = 'done'))
), cells AS (
    SELECT m.data ->> 'relation' AS relation, m.data ->> 'fact' AS fact, chosen.random_weights,
           m.data ->> 'correct' AS correct, m.data ->> 'commonest_correct' AS commonest,
           m.data ->> 'subjectless_correct' AS subject_removed,
           m.data ->> 'shuffled_correct' AS shuffled, m.data ->> 'exact' AS exact
    FROM chosen
    JOIN measurements AS m ON m.chunk = chosen.chunk
)
SELECT relation, count(DISTINCT fact) AS facts, sum(NOT random_weights) AS rows,
       avg(correct) FILTER (WHERE NOT random_weights) AS recall,
       avg(commonest) FILTER (WHERE NOT random_weights) AS commonest,
       avg(subject_removed) FILTER (WHERE NOT random_weights) AS subject_removed,
       avg(shuffled) FILTER (WHERE NOT random_weights) AS shuffled,
       avg(correct) FILTER (WHERE random_weights) AS random_init,
       avg(exact) FILTER (WHERE NOT random_weights) AS exact
FROM cells
GROUP BY relation
ORDER BY recall DESC, relation
