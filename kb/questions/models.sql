-- title: Which models are recorded?
-- description: One row a model.
SELECT m.id AS model, m.name, m.architecture, m.precision, m.n_parameters, m.fingerprint,
       (SELECT count(*) FROM runs AS r WHERE r.model = m.id) AS runs
FROM models AS m
ORDER BY m.id
