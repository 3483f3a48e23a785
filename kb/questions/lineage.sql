-- title: From which models does a model come, and which models come from it?
-- description: One row a step from a parent to a child; `generation` counts from the model asked about: below zero towards its ancestors, above zero towards its descendants. The model is a fingerprint, the beginning of one (8 characters or more) or a name; without it every recorded step, with generation null.
-- parameter: model=
WITH RECURSIVE chosen AS (
    SELECT fingerprint FROM models
    WHERE fingerprint = :model OR name = :model
       OR (length(:model) >= 8 AND substr(fingerprint, 1, length(:model)) = :model)
), up (id, parent, generation) AS (
    SELECT l.id, l.parent, -1 FROM lineage AS l JOIN chosen AS c ON l.child = c.fingerprint
    UNION
    SELECT l.id, l.parent, up.generation - 1
    FROM up JOIN lineage AS l ON l.child = up.parent
    WHERE up.generation > -1000
), down (id, child, generation) AS (
    SELECT l.id, l.child, 1 FROM lineage AS l JOIN chosen AS c ON l.parent = c.fingerprint
    UNION
    SELECT l.id, l.child, down.generation + 1
    FROM down JOIN lineage AS l ON l.parent = down.child
    WHERE down.generation < 1000
), family (id, generation) AS (
    SELECT id, max(generation) FROM up GROUP BY id
    UNION ALL
    SELECT id, min(generation) FROM down WHERE id NOT IN (SELECT id FROM up) GROUP BY id
    UNION ALL
    SELECT id, NULL FROM lineage WHERE :model IS NULL
)
SELECT f.generation, c.name AS child, p.name AS parent, l.kind, l.step, l.run, r.measure, r.seed,
       c.precision AS child_precision, p.precision AS parent_precision,
       l.child AS child_fingerprint, l.parent AS parent_fingerprint, l.recipe, l.recorded
FROM family AS f
JOIN lineage AS l ON l.id = f.id
JOIN models AS c ON c.fingerprint = l.child
JOIN models AS p ON p.fingerprint = l.parent
LEFT JOIN runs AS r ON r.id = l.run
ORDER BY f.generation, l.id
