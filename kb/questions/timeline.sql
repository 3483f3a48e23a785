-- title: When was each node first proposed, and when last contradicted?
-- description: One row a node that some work proposes or contradicts.
SELECT n.id AS node, n.name, n.kind,
       min(CASE WHEN e.relation = 'proposes' THEN w.year END) AS first_proposed,
       max(CASE WHEN e.relation = 'supports' THEN w.year END) AS last_supported,
       max(CASE WHEN e.relation = 'contradicts' THEN w.year END) AS last_contradicted
FROM nodes AS n
JOIN edges AS e ON e.node = n.id AND e.relation IN ('proposes', 'supports', 'contradicts')
JOIN works AS w ON w.key = e.work
GROUP BY n.id
HAVING first_proposed IS NOT NULL OR last_contradicted IS NOT NULL
ORDER BY first_proposed IS NULL, first_proposed, n.tree_enter
