-- title: Which methods against hallucination are there for each of its causes?
-- description: One row a work on a cause (data, training, decoding) or on outside knowledge (retrieval); `proposes` names the mechanisms it puts forward, null where the work only shows the cause. measures are those of km that bear on the node.
-- parameter: cause=
WITH causes (place, cause, node) AS (
    VALUES (1, 'data', 'cause-data-distribution'), (2, 'data', 'cause-data-quantity'),
           (3, 'training', 'cause-training-stage'), (4, 'decoding', 'cause-decoding'),
           (5, 'retrieval', 'context-knowledge-selection'), (6, 'retrieval', 'knowledge-augmentation')
)
SELECT c.cause, n.id AS node, n.name, w.key AS work, w.title, w.year, e.relation,
       (SELECT group_concat(p.node, ', ') FROM edges AS p
        JOIN nodes AS pn ON pn.id = p.node AND pn.kind = 'mechanism'
        WHERE p.work = w.key AND p.relation = 'proposes') AS proposes,
       e.evidence AS edge_evidence, e.note,
       (SELECT group_concat(m.id, ', ') FROM measure_nodes AS mn
        JOIN measures AS m ON m.id = mn.measure AND m.status <> 'planned'
        WHERE mn.node = n.id) AS measures
FROM causes AS c
JOIN nodes AS n ON n.id = c.node
JOIN edges AS e ON e.node = n.id AND e.relation IN ('proposes', 'supports')
JOIN works AS w ON w.key = e.work
WHERE :cause IS NULL OR c.cause = :cause
ORDER BY c.place, proposes IS NULL, w.year, w.key
