-- title: Which works support both of two nodes (or something below them)?
-- description: Works with their node on each side.
-- parameter: first=hyp-modular-region
-- parameter: second=hyp-connection
SELECT w.key AS work, w.title, w.year, group_concat(DISTINCT ea.node) AS first_nodes,
       group_concat(DISTINCT eb.node) AS second_nodes
FROM nodes AS a
JOIN nodes AS da ON da.tree_enter BETWEEN a.tree_enter AND a.tree_leave
JOIN edges AS ea ON ea.node = da.id AND ea.relation IN ('proposes', 'supports')
JOIN edges AS eb ON eb.work = ea.work AND eb.relation IN ('proposes', 'supports')
JOIN nodes AS db ON db.id = eb.node
JOIN nodes AS b ON db.tree_enter BETWEEN b.tree_enter AND b.tree_leave
JOIN works AS w ON w.key = ea.work
WHERE a.id = :first AND b.id = :second
GROUP BY w.key
ORDER BY w.year, w.key
