-- Schema version 2: where models come from.

-- One model came from another: its child was made from its parent by training, editing and so on.
-- A merged model has several parents. Whoever reads the table must not trust it to be free of
-- circles: km refuses to write one, another program may.
CREATE TABLE lineage (
    id       INTEGER PRIMARY KEY,
    child    TEXT NOT NULL REFERENCES models (fingerprint),
    parent   TEXT NOT NULL REFERENCES models (fingerprint),
    kind     TEXT NOT NULL CHECK (kind IN ('trained', 'edited', 'pruned', 'merged', 'quantised',
                                           'snapshot')),
    run      INTEGER REFERENCES runs (id),         -- that made the child; null: not recorded
    step     INTEGER CHECK (step >= 0),            -- optimiser steps from parent to child
    recipe   TEXT CHECK (recipe LIKE '{%}'),       -- JSON object: what else decides the child
    recorded TEXT NOT NULL,
    UNIQUE (child, parent, kind),
    CHECK (child <> parent)
) STRICT;
CREATE INDEX lineage_parent ON lineage (parent);
