-- Schema version 3: the ledger: predictions, when they were frozen for which unit, and verdicts.
-- Rows are added and never changed: a new run adds a verdict, the old ones stay.

-- What is said to be found, before it is looked at. `content` is canonical JSON and `digest` its
-- SHA-256; the other columns repeat members of it so that they can be asked for.
CREATE TABLE predictions (
    digest       TEXT PRIMARY KEY,
    id           TEXT NOT NULL,
    version      INTEGER NOT NULL CHECK (version >= 1),
    statement    TEXT NOT NULL,
    measure      TEXT REFERENCES measures (id),  -- null: none can test it here
    statistic    TEXT,
    direction    TEXT NOT NULL CHECK (direction IN ('above', 'below', 'different')),
    no_effect    REAL NOT NULL,                  -- the figure where there is none
    smallest     REAL NOT NULL,                  -- smallest distance from it that is of interest
    unit         TEXT NOT NULL,
    minimum_n    INTEGER NOT NULL,
    n_unit       TEXT NOT NULL,
    kind         TEXT NOT NULL CHECK (kind IN ('observation', 'intervention')),
    family       TEXT NOT NULL CHECK (family IN ('confirmatory', 'exploratory')),
    falsified_by TEXT NOT NULL,
    not_testable TEXT NOT NULL,  -- why it cannot be tested here; '': it can
    content      TEXT NOT NULL CHECK (content LIKE '{%}'),
    added        TEXT NOT NULL,
    UNIQUE (id, version)
) STRICT, WITHOUT ROWID;

-- The nodes a prediction bears on; km refuses those its measure is not declared to bear on.
CREATE TABLE prediction_nodes (
    prediction TEXT NOT NULL REFERENCES predictions (digest),
    node       TEXT NOT NULL REFERENCES nodes (id),
    PRIMARY KEY (prediction, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX prediction_nodes_node ON prediction_nodes (node);

-- Other explanations of the figure that is predicted.
CREATE TABLE rivals (
    prediction TEXT NOT NULL REFERENCES predictions (digest),
    position   INTEGER NOT NULL,
    rival      TEXT NOT NULL,
    PRIMARY KEY (prediction, position)
) STRICT, WITHOUT ROWID;

-- What a verdict is about besides its prediction: model, precision, prompts, facts and recipe.
-- `content` is canonical JSON of them, without the model's name, and `digest` its SHA-256.
CREATE TABLE units (
    digest      TEXT PRIMARY KEY,
    model       TEXT NOT NULL,  -- its name
    fingerprint TEXT NOT NULL,  -- of `models`, or what else stands for models made by a study
    precision   TEXT NOT NULL,
    prompts     TEXT NOT NULL,  -- SHA-256 of what the model was shown; '': not given
    facts       TEXT NOT NULL,  -- SHA-256 of what was asked; '': not given
    recipe      TEXT NOT NULL CHECK (recipe LIKE '{%}'),
    content     TEXT NOT NULL CHECK (content LIKE '{%}')
) STRICT, WITHOUT ROWID;

-- When a prediction was fixed for a unit. basis 'before': in this file, before any run that may
-- count for it; 'release': km shipped the prediction, the unit is that of a run already made.
CREATE TABLE freezings (
    id         INTEGER PRIMARY KEY,
    prediction TEXT NOT NULL REFERENCES predictions (digest),
    unit       TEXT NOT NULL REFERENCES units (digest),
    basis      TEXT NOT NULL CHECK (basis IN ('before', 'release')),
    frozen     TEXT NOT NULL,
    UNIQUE (prediction, unit, basis)
) STRICT;
CREATE INDEX freezings_unit ON freezings (unit);

CREATE TABLE verdicts (
    id       INTEGER PRIMARY KEY,
    freezing INTEGER NOT NULL REFERENCES freezings (id),
    run      INTEGER NOT NULL REFERENCES runs (id),
    word     TEXT NOT NULL CHECK (word IN ('consistent', 'inconsistent', 'equivalent to none',
                                           'inconclusive', 'not testable here')),
    estimate REAL,
    low      REAL,
    high     REAL,
    n        INTEGER NOT NULL CHECK (n >= 0),
    p_value  REAL,              -- adjusted for the predictions tested together
    rows     TEXT NOT NULL,     -- how to find what it rests on: keys of chunks, or a question
    command  TEXT,              -- what repeats it; null: not known
    judged   TEXT NOT NULL,
    UNIQUE (freezing, run)
) STRICT;
CREATE INDEX verdicts_run ON verdicts (run);

-- Every verdict with what it is about.
CREATE VIEW ledger AS
SELECT v.id AS verdict, p.id AS prediction, p.version, v.word, v.estimate, v.low, v.high, p.unit,
       v.n, p.n_unit, v.p_value, u.model, u.precision, p.family, p.kind, f.basis, f.frozen,
       v.judged, v.run, v.rows, v.command, p.statement, p.measure, p.statistic, p.no_effect,
       p.smallest, p.falsified_by, p.digest AS prediction_digest, u.digest AS unit_digest,
       u.fingerprint, u.prompts, u.facts, u.recipe
FROM verdicts AS v
JOIN freezings AS f ON f.id = v.freezing
JOIN predictions AS p ON p.digest = f.prediction
JOIN units AS u ON u.digest = f.unit;
