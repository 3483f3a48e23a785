-- title: How much of each relation did a run recall, beside what needs no knowledge?
-- description: Shares over facts and templates of a run (default: the newest that is done).
-- parameter: run=
SELECT m.data ->> 'relation' AS relation, count(DISTINCT m.data ->> 'fact') AS facts,
       count(*) AS rows, avg(m.data ->> 'correct') AS recall,
       avg(m.data ->> 'commonest_correct') AS commonest,
       avg(m.data ->> 'subjectless_correct') AS subject_removed,
       avg(m.data ->> 'shuffled_correct') AS shuffled, avg(m.data ->> 'exact') AS exact
FROM run_chunks AS c
JOIN measurements AS m ON m.chunk = c.chunk
WHERE c.run = coalesce(:run, (SELECT max(id) FROM runs
                              WHERE measure = 'memorization.recall' AND status = 'done'))
GROUP BY m.data ->> 'relation'
ORDER BY recall DESC, relation
