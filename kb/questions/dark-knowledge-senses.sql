-- title: Which nodes belong to which of the two senses of "dark knowledge"?
-- description: The hypothesis of what is unknown to humans or machines, and what soft outputs carry.
SELECT CASE WHEN n.id = 'dark-knowledge' THEN 'unknown to human or machine'
            ELSE 'carried by soft outputs' END AS sense,
       d.id AS node, d.name, d.kind, d.summary,
       (SELECT count(*) FROM edges AS e WHERE e.node = d.id) AS works
FROM nodes AS n
JOIN nodes AS d ON d.tree_enter BETWEEN n.tree_enter AND n.tree_leave
WHERE n.id IN ('dark-knowledge', 'soft-label-knowledge', 'self-distillation-regularisation')
ORDER BY sense DESC, d.tree_enter
