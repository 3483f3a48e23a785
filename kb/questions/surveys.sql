-- title: Which works are surveys, and how many nodes does each leave out?
-- description: Surveys with the nodes they cover; a survey of a node covers all that lies below it.
SELECT w.key AS work, w.title, w.year, group_concat(DISTINCT s.id) AS surveyed,
       count(DISTINCT d.id) AS covered,
       (SELECT count(*) FROM nodes) - count(DISTINCT d.id) AS not_covered
FROM edges AS e
JOIN works AS w ON w.key = e.work
JOIN nodes AS s ON s.id = e.node
JOIN nodes AS d ON d.tree_enter BETWEEN s.tree_enter AND s.tree_leave
WHERE e.relation = 'surveys'
GROUP BY w.key
ORDER BY covered DESC, w.key
