-- title: Where does my taxonomy say something else than km's, or than a file I imported?
-- description: What is here stays as it is; ours and theirs are JSON.
SELECT what, key, problem, ours, theirs, source, found
FROM taxonomy_conflicts
ORDER BY source DESC, what, key, id
