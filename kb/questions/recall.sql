-- title: How did each fact do in a recall run?
-- description: One row a fact and template of a run (default: the newest that is done).
-- parameter: run=
-- parameter: relation=
WITH chosen AS (
    SELECT k.id AS chunk
    FROM runs AS r
    JOIN run_chunks AS c ON c.run = r.id
    JOIN chunks AS k ON k.id = c.chunk
    WHERE r.id = coalesce(:run, (SELECT max(id) FROM runs
                                 WHERE measure = 'memorization.recall' AND status = 'done'))
      -- not those of the random-weights control
      AND NOT EXISTS (SELECT 1 FROM json_each(r.parameters, '$.relations') AS part
                      WHERE part.value ->> 'control' = k.key)
)
SELECT m.data ->> 'relation' AS relation, m.data ->> 'fact' AS fact, m.data ->> 'subject' AS subject,
       m.data ->> 'answer' AS answer, m.data ->> 'template' AS template,
       m.data ->> 'prompt' AS prompt, m.data ->> 'rank' AS rank, m.data ->> 'correct' AS correct,
       CASE typeof(m.data ->> 'logp') WHEN 'real' THEN m.data ->> 'logp' END AS logp,
       m.data ->> 'top_candidate' AS top_candidate, m.data ->> 'exact' AS exact,
       m.data ->> 'subjectless_correct' AS subjectless_correct,
       m.data ->> 'commonest_correct' AS commonest_correct,
       m.data ->> 'shuffled_correct' AS shuffled_correct,
       m.data ->> 'first_token_rank' AS first_token_rank, m.data ->> 'lead_layer' AS lead_layer
FROM chosen
JOIN measurements AS m ON m.chunk = chosen.chunk
WHERE :relation IS NULL OR m.data ->> 'relation' = :relation
ORDER BY m.chunk, m.row
