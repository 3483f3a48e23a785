-- Schema version 5: what the user added to the taxonomy is told from what km ships, so that a newer
-- taxonomy of km's leaves it where it is.

-- origin 'km': shipped, renewed with km's taxonomy; 'user': added here, never changed by km.
-- shipped_parent: where km has a node that the user moved; null: not moved.
ALTER TABLE nodes ADD COLUMN origin TEXT NOT NULL DEFAULT 'km' CHECK (origin IN ('km', 'user'));
ALTER TABLE nodes ADD COLUMN shipped_parent TEXT;
ALTER TABLE works ADD COLUMN origin TEXT NOT NULL DEFAULT 'km' CHECK (origin IN ('km', 'user'));
ALTER TABLE edges ADD COLUMN origin TEXT NOT NULL DEFAULT 'km' CHECK (origin IN ('km', 'user'));
ALTER TABLE measure_nodes
    ADD COLUMN origin TEXT NOT NULL DEFAULT 'km' CHECK (origin IN ('km', 'user'));
UPDATE measure_nodes SET origin = 'user'
WHERE measure IN (SELECT id FROM measures WHERE status = 'user');

-- Where the taxonomy here says something else than another one does. What is here stays.
-- problem 'differs': the same key with other content; 'moved': a node of km's that is elsewhere
-- here; 'gone': km no longer has it, and something of the user's needs it.
-- source 'km': the newest taxonomy of km's, listed anew with each of them; 'import': a file that
-- was read.
CREATE TABLE taxonomy_conflicts (
    id      INTEGER PRIMARY KEY,
    what    TEXT NOT NULL CHECK (what IN ('nodes', 'works', 'edges', 'measures')),
    key     TEXT NOT NULL,    -- of an edge: work, relation and node
    problem TEXT NOT NULL CHECK (problem IN ('differs', 'moved', 'gone')),
    ours    TEXT NOT NULL,    -- JSON
    theirs  TEXT NOT NULL,
    source  TEXT NOT NULL CHECK (source IN ('km', 'import')),
    found   TEXT NOT NULL,
    UNIQUE (what, key, problem, ours, theirs, source)
) STRICT;
