-- title: Which hypotheses have contradicting evidence in the literature?
-- description: One row a contradicting work; edge_evidence "guess" is a judgement to be checked first.
SELECT n.id AS node, n.name, w.key AS work, w.title, w.year, e.evidence AS edge_evidence, e.note,
       (SELECT count(*) FROM edges AS s WHERE s.node = n.id AND s.relation = 'supports')
           AS supporting_works
FROM nodes AS n
JOIN edges AS e ON e.node = n.id AND e.relation = 'contradicts'
JOIN works AS w ON w.key = e.work
WHERE n.kind = 'hypothesis'
ORDER BY n.tree_enter, w.year, w.key
