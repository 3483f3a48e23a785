-- title: How did each fact do in a recall run?
-- description: One row a fact and template of a run (default: the newest that is done).
-- parameter: run=
-- parameter: relation=
SELECT m.data ->> 'relation' AS relation, m.data ->> 'fact' AS fact, m.data ->> 'subject' AS subject,
       m.data ->> 'answer' AS answer, m.data ->> 'template' AS template,
       m.data ->> 'prompt' AS prompt, m.data ->> 'rank' AS rank, m.data ->> 'correct' AS correct,
       CASE typeof(m.data ->> 'logp') WHEN 'real' THEN m.data ->> 'logp' END AS logp,
       m.data ->> 'top_candidate' AS top_candidate, m.data ->> 'exact' AS exact,
       m.data ->> 'subjectless_correct' AS subjectless_correct,
       m.data ->> 'commonest_correct' AS commonest_correct,
       m.data ->> 'shuffled_correct' AS shuffled_correct,
       m.data ->> 'first_token_rank' AS first_token_rank, m.data ->> 'lead_layer' AS lead_layer
FROM run_chunks AS c
JOIN measurements AS m ON m.chunk = c.chunk
WHERE c.run = coalesce(:run, (SELECT max(id) FROM runs
                              WHERE measure = 'memorization.recall' AND status = 'done'))
  AND (:relation IS NULL OR m.data ->> 'relation' = :relation)
ORDER BY c.chunk, m.row
