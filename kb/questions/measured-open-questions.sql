-- title: Which open questions have a measure in km?
-- description: Open questions with measures of theirs or of what lies below them.
SELECT n.id AS node, n.name, m.id AS measure, m.status
FROM nodes AS n
JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
JOIN measure_nodes AS mn ON mn.node = d.id
JOIN measures AS m ON m.id = mn.measure
WHERE n.kind = 'open_question'
ORDER BY n.tree_enter, m.id
