-- title: What do my own runs say about a node and what lies below it?
-- description: The newest evidence of each model beside the works for and against; no verdict is implied.
-- parameter: node=memorization
SELECT l.node, l.measure, l.statistic, l.value, l.low, l.high, l.n, l.unit, l.baseline, l.model,
       l.precision, l.run, l.note,
       (SELECT count(*) FROM edges AS e WHERE e.node = l.node AND e.relation = 'supports')
           AS supporting_works,
       (SELECT count(*) FROM edges AS e WHERE e.node = l.node AND e.relation = 'contradicts')
           AS contradicting_works
FROM nodes AS n
JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
JOIN latest_evidence AS l ON l.node = d.id
WHERE n.id = :node
ORDER BY d.tree_enter, l.measure, l.statistic, l.model
