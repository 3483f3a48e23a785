-- title: Which works propose a node, and which only measure it?
-- description: Works on a node with their relations; role is "proposes" or "only measures".
-- parameter: node=hyp-modular-region
SELECT w.key AS work, w.title, w.year,
       CASE WHEN max(e.relation = 'proposes') THEN 'proposes' ELSE 'only measures' END AS role,
       group_concat(e.relation, ', ') AS relations
FROM edges AS e
JOIN works AS w ON w.key = e.work
WHERE e.node = :node
GROUP BY w.key
HAVING max(e.relation IN ('proposes', 'measures'))
ORDER BY role DESC, w.year, w.key
