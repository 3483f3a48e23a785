-- Schema version 1 of a km knowledge base. Times are UTC, ISO 8601. JSON columns hold canonical
-- JSON text and can be read with SQLite's json functions and the ->> operator; the schema itself
-- uses none of them, because SQLite 3.40 refuses them in the schema of a file that is not trusted,
-- and no knowledge base is.

-- What is known about the file itself: created, created_by, taxonomy_version, taxonomy_sha256,
-- taxonomy_about.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The taxonomy of knowledge mechanisms. Everything below node X (and X itself) is
-- `tree_enter BETWEEN X.tree_enter AND X.tree_leave`.
CREATE TABLE nodes (
    id             TEXT PRIMARY KEY,
    parent         TEXT REFERENCES nodes (id),
    name           TEXT NOT NULL,
    kind           TEXT NOT NULL CHECK (kind IN ('aspect', 'mechanism', 'phenomenon', 'hypothesis',
                                                 'analysis_method', 'open_question')),
    summary        TEXT NOT NULL,
    evidence       TEXT NOT NULL CHECK (evidence IN ('paper', 'seed', 'known', 'guess')),
    survey_section TEXT,              -- of the survey the taxonomy follows; null: our extension
    depth          INTEGER NOT NULL,  -- 0 for the root
    tree_enter     INTEGER NOT NULL UNIQUE,
    tree_leave     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX nodes_parent ON nodes (parent);

-- Literature.
CREATE TABLE works (
    key         TEXT PRIMARY KEY,
    title       TEXT NOT NULL,
    authors     TEXT NOT NULL,
    year        INTEGER,
    venue       TEXT,
    arxiv       TEXT,           -- arXiv identifier; null where none was verified
    verified_by TEXT NOT NULL,  -- how the entry was checked
    note        TEXT
) STRICT, WITHOUT ROWID;

-- What a work says about a node. `evidence` tells how we know that it says so: guess is our
-- judgement and to be checked first. Works are listed, never summed into a score.
CREATE TABLE edges (
    work     TEXT NOT NULL REFERENCES works (key),
    node     TEXT NOT NULL REFERENCES nodes (id),
    relation TEXT NOT NULL CHECK (relation IN ('proposes', 'supports', 'contradicts', 'measures',
                                               'surveys')),
    evidence TEXT NOT NULL CHECK (evidence IN ('paper', 'seed', 'known', 'guess')),
    note     TEXT,
    PRIMARY KEY (work, node, relation)
) STRICT, WITHOUT ROWID;
CREATE INDEX edges_node ON edges (node, relation);

-- Where the works km implements have their place in the tree.
CREATE TABLE seed_places (
    work     TEXT NOT NULL REFERENCES works (key),
    node     TEXT NOT NULL REFERENCES nodes (id),
    position INTEGER NOT NULL,  -- 0 is the main place
    PRIMARY KEY (work, node)
) STRICT, WITHOUT ROWID;

-- Measures km has or plans, and the only nodes each may bear on: a row of `evidence` needs its
-- pair here, so that recall can never be filed under a hypothesis about modules or circuits.
CREATE TABLE measures (
    id     TEXT PRIMARY KEY,
    module TEXT NOT NULL,
    title  TEXT,
    status TEXT NOT NULL CHECK (status IN ('available', 'planned', 'user'))
) STRICT, WITHOUT ROWID;
CREATE TABLE measure_nodes (
    measure TEXT NOT NULL REFERENCES measures (id),
    node    TEXT NOT NULL REFERENCES nodes (id),
    PRIMARY KEY (measure, node)
) STRICT, WITHOUT ROWID;
CREATE INDEX measure_nodes_node ON measure_nodes (node);

-- Models by fingerprint (SHA-256 over configuration and weights).
CREATE TABLE models (
    id             INTEGER PRIMARY KEY,
    fingerprint    TEXT NOT NULL UNIQUE,
    name           TEXT NOT NULL,
    architecture   TEXT,
    precision      TEXT,
    path           TEXT,     -- where it was when first recorded
    tokenizer_hash TEXT,
    n_parameters   INTEGER,
    config         TEXT CHECK (config LIKE '{%}'),  -- JSON object
    recorded       TEXT NOT NULL
) STRICT;

-- Facts asked. `answers` is a JSON array: the answer first, then its accepted aliases.
CREATE TABLE facts (
    id       TEXT PRIMARY KEY,
    relation TEXT NOT NULL,
    subject  TEXT NOT NULL,
    answers  TEXT NOT NULL CHECK (answers LIKE '[%]'),
    source   TEXT,
    licence  TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX facts_relation ON facts (relation, subject);

-- Texts whose memorisation was measured.
CREATE TABLE texts (
    id      TEXT PRIMARY KEY,
    title   TEXT,
    body    TEXT NOT NULL,
    source  TEXT,
    licence TEXT
) STRICT, WITHOUT ROWID;

-- One execution of a measure on a model. A run left 'running' by a killed process keeps the chunks
-- it had stored.
CREATE TABLE runs (
    id         INTEGER PRIMARY KEY,
    key        TEXT UNIQUE,  -- SHA-256 of the recorded result; null until a result is recorded
    measure    TEXT NOT NULL REFERENCES measures (id),
    version    INTEGER NOT NULL,
    parameters TEXT NOT NULL CHECK (parameters LIKE '{%}'),  -- JSON object
    model      INTEGER REFERENCES models (id),
    seed       INTEGER,
    status     TEXT NOT NULL CHECK (status IN ('running', 'done', 'cancelled', 'failed')),
    started    TEXT NOT NULL,
    finished   TEXT,
    km_version TEXT,
    cpu        TEXT,         -- instruction set variant of km
    blas_core  TEXT,         -- core type of OpenBLAS
    command    TEXT,
    note       TEXT,
    CHECK ((status = 'running') = (finished IS NULL))
) STRICT;
CREATE INDEX runs_measure ON runs (measure, model);

-- A chunk is a table of measurements with a content key: SHA-256 over measure, its version,
-- parameters, model and token ids. The same work found again has the same key.
CREATE TABLE chunks (
    id      INTEGER PRIMARY KEY,
    key     TEXT NOT NULL UNIQUE,
    run     INTEGER NOT NULL REFERENCES runs (id),  -- which measured it
    columns TEXT NOT NULL CHECK (columns LIKE '[%]'),  -- JSON: name, type, unit, description
    n_rows  INTEGER NOT NULL,
    digest  TEXT NOT NULL,  -- SHA-256 over `columns` and every row of `measurements`
    stored  TEXT NOT NULL
) STRICT;
CREATE INDEX chunks_run ON chunks (run);

-- Which chunks a run used: those it measured and those it found.
CREATE TABLE run_chunks (
    run   INTEGER NOT NULL REFERENCES runs (id),
    chunk INTEGER NOT NULL REFERENCES chunks (id),
    PRIMARY KEY (run, chunk)
) STRICT, WITHOUT ROWID;
CREATE INDEX run_chunks_chunk ON run_chunks (chunk);

-- One row of a measured table as a JSON object, column name to value; a null cell has no member.
-- Real numbers that JSON lacks are the texts "NaN", "Infinity" and "-Infinity".
CREATE TABLE measurements (
    chunk INTEGER NOT NULL REFERENCES chunks (id),
    row   INTEGER NOT NULL,
    data  TEXT NOT NULL,
    PRIMARY KEY (chunk, row)
) STRICT, WITHOUT ROWID;

-- A chunk measured again with other values: the first values stay, the second are noted here.
CREATE TABLE conflicts (
    id             INTEGER PRIMARY KEY,
    chunk          INTEGER NOT NULL REFERENCES chunks (id),
    run            INTEGER NOT NULL REFERENCES runs (id),
    digest         TEXT NOT NULL,
    max_difference REAL,  -- largest absolute difference of two numbers; null: not the same cells
    found          TEXT NOT NULL,
    UNIQUE (chunk, digest)
) STRICT;

-- What a run says about a node: one statistic with its interval and n, beside its baseline.
CREATE TABLE evidence (
    id        INTEGER PRIMARY KEY,
    run       INTEGER NOT NULL REFERENCES runs (id),
    node      TEXT NOT NULL,
    measure   TEXT NOT NULL,
    statistic TEXT NOT NULL,
    value     REAL,
    low       REAL,     -- interval
    high      REAL,
    n         INTEGER,
    unit      TEXT,
    baseline  ANY,      -- a number, or the name of what `value` is compared with
    note      TEXT,
    UNIQUE (run, node, measure, statistic),
    FOREIGN KEY (measure, node) REFERENCES measure_nodes (measure, node)
) STRICT;
CREATE INDEX evidence_node ON evidence (node);

-- The newest evidence of each node, measure, statistic and model, from finished runs.
CREATE VIEW latest_evidence AS
SELECT e.id, e.run, e.node, e.measure, e.statistic, e.value, e.low, e.high, e.n, e.unit,
       e.baseline, e.note, m.name AS model, m.fingerprint, m.precision, r.finished
FROM evidence AS e
JOIN runs AS r ON r.id = e.run AND r.status = 'done'
LEFT JOIN models AS m ON m.id = r.model
WHERE e.id = (SELECT max(e2.id)
              FROM evidence AS e2
              JOIN runs AS r2 ON r2.id = e2.run AND r2.status = 'done'
              WHERE e2.node = e.node AND e2.measure = e.measure AND e2.statistic = e.statistic
                AND r2.model IS r.model);

-- Full-text search. `search_index` holds the text with runs of Chinese, Japanese and Korean
-- characters replaced by their overlapping pairs; its rowid is search_documents.id, which says
-- what the text belongs to.
CREATE TABLE search_documents (
    id   INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('node', 'work', 'fact', 'text')),
    ref  TEXT NOT NULL,
    UNIQUE (kind, ref)
) STRICT;
CREATE VIRTUAL TABLE search_index USING fts5 (
    title, body, tokenize = 'porter unicode61 remove_diacritics 2'
);

-- Everything that can be searched, as it was written.
CREATE VIEW searchable (kind, ref, title, body) AS
SELECT 'node', id, name, summary FROM nodes
UNION ALL
SELECT 'work', key, title, authors || ', ' || coalesce(venue, '') || ' ' || coalesce(year, '')
FROM works
UNION ALL
SELECT 'fact', id, subject,
       replace(relation, '_', ' ') || ': ' || answers
FROM facts
UNION ALL
SELECT 'text', id, coalesce(title, id), body FROM texts;
