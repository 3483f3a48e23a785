/* merge.c: bring what another base holds into this one.
 *
 * The other file is read through a connection of its own, which cannot write; it is never attached,
 * so nothing of its schema acts here. Its small tables are copied into temporary ones as they are,
 * and from there into ours by their natural keys: fingerprints, ids, content keys, digests; numbers
 * of rows mean nothing between files. Tables of measurements are read, checked and stored one by
 * one. What has the same key and other values stays as we have it and is listed; what our rules
 * would not have accepted is left out and listed. All of it is one transaction.
 */

#include <string.h>

#include "kb_private.h"

enum { HANDLER_STEPS = 100000, MAX_DEPTH = 200 };

typedef struct merge {
    km_kb *kb, *from;
    km_tick tick;
    int64_t done;
    km_status stopped; /* by a tick inside a long statement */
    km_error reason;
} merge;

/* ---- reading the other file ---- */

/* Every table that is copied whole, in the order in which rows refer to each other. */
static const char *const staged[] = {
    "nodes",    "works",       "edges", "seed_places", "measures",   "measure_nodes", "models",
    "facts",    "texts",       "runs",  "chunks",      "run_chunks", "conflicts",     "lineage",
    "evidence", "predictions", "units", "freezings",   "verdicts",
};
#define N_STAGED ((int)(sizeof staged / sizeof staged[0]))

static int tick_inside(void *payload) {
    merge *m = payload;
    m->stopped = km_tick_update(&m->tick, m->done, &m->reason);
    return m->stopped != KM_OK;
}

static void watch(merge *m, bool on) {
    sqlite3 *const both[] = {m->kb->db, m->from->db};
    for (int i = 0; i < 2; i++) {
        sqlite3_progress_handler(both[i], on ? HANDLER_STEPS : 0, on ? tick_inside : NULL, m);
    }
}

/* A statement with a table's name for %w. */
static km_status exec_for(km_kb *kb, const char *format, const char *table, km_error *err) {
    char *sql = sqlite3_mprintf(format, table, table, table);
    if (sql == NULL) {
        return KM_SET(err, KM_ENOMEM, "no memory for a statement");
    }
    km_status status = km__kb_exec(kb, sql, err);
    sqlite3_free(sql);
    return status;
}

/* One more row of `from` into `to`, cell by cell. */
static km_status copy_row(km_kb *kb, sqlite3_stmt *to, sqlite3_stmt *from, km_error *err) {
    for (int i = 0; i < sqlite3_column_count(from); i++) {
        int rc = sqlite3_bind_value(to, i + 1, sqlite3_column_value(from, i));
        if (rc != SQLITE_OK) {
            return km__kb_error(kb, rc, "copying a row", err);
        }
    }
    return km__kb_run(kb, to, err);
}

/* The statements that read a table there and write it here; both schemas are the same. */
static km_status prepare_copy(sqlite3_stmt **from, sqlite3_stmt **to, const merge *m,
                              const char *table, km_error *err) {
    km_status status = KM_OK;
    char *select = sqlite3_mprintf("SELECT * FROM \"%w\"", table);
    sqlite3_str *insert = sqlite3_str_new(m->kb->db);
    char *text = NULL;
    if (select == NULL) {
        KM_FAIL(err, KM_ENOMEM, "no memory for a statement");
    }
    KM_GO(km__kb_prepare(from, m->from, select, err));
    sqlite3_str_appendf(insert, "INSERT INTO temp.\"their_%w\" VALUES (", table);
    for (int i = 0; i < sqlite3_column_count(*from); i++) {
        sqlite3_str_appendall(insert, i > 0 ? ", ?" : "?");
    }
    sqlite3_str_appendall(insert, ")");
done:
    text = sqlite3_str_finish(insert);
    if (status == KM_OK) {
        status = text == NULL ? KM_SET(err, KM_ENOMEM, "no memory for a statement")
                              : km__kb_prepare(to, m->kb, text, err);
    }
    sqlite3_free(text);
    sqlite3_free(select);
    return status;
}

static km_status stage_table(merge *m, const char *table, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *from = NULL, *to = NULL;
    bool row = false;
    KM_GO(exec_for(m->kb,
                   "DROP TABLE IF EXISTS temp.\"their_%w\";"
                   "CREATE TEMP TABLE \"their_%w\" AS SELECT * FROM main.\"%w\" WHERE 0",
                   table, err));
    KM_GO(prepare_copy(&from, &to, m, table, err));
    for (;;) {
        KM_GO(km__kb_step(&row, m->from, from, err));
        if (!row) {
            break;
        }
        KM_GO(copy_row(m->kb, to, from, err));
    }
done:
    sqlite3_finalize(from);
    sqlite3_finalize(to);
    return status;
}

/* Our tables must be defined there as they are here, word for word: no view in the place of a
 * table, no computed column. */
static km_status check_definition(const merge *m, const char *table, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *ours = NULL, *theirs = NULL;
    bool a = false, b = false;
    static const char sql[] = "SELECT type || ' ' || sql FROM sqlite_schema WHERE name = ?1";
    KM_GO(km__kb_prepare(&ours, m->kb, sql, err));
    KM_GO(km__kb_prepare(&theirs, m->from, sql, err));
    KM_GO(km__kb_bind_text(m->kb, ours, 1, table, -1, err));
    KM_GO(km__kb_bind_text(m->from, theirs, 1, table, -1, err));
    KM_GO(km__kb_step(&a, m->kb, ours, err));
    KM_GO(km__kb_step(&b, m->from, theirs, err));
    const char *x = a ? (const char *)sqlite3_column_text(ours, 0) : NULL;
    const char *y = b ? (const char *)sqlite3_column_text(theirs, 0) : NULL;
    if (x == NULL || y == NULL || strcmp(x, y) != 0) {
        KM_FAIL(err, KM_EFORMAT, "%s: its table '%s' is not km's", m->from->path, table);
    }
done:
    sqlite3_finalize(ours);
    sqlite3_finalize(theirs);
    return status;
}

/* Pages, references and circles, before anything of it is believed. */
static km_status check_other(const merge *m, km_error *err) {
    km_status status = KM_OK;
    km_table *problems = NULL;
    KM_GO(check_definition(m, "measurements", err));
    for (int i = 0; i < N_STAGED; i++) {
        KM_GO(check_definition(m, staged[i], err));
    }
    KM_GO(km_kb_check(&problems, m->from, false, err));
    if (km_table_rows(problems) > 0) {
        KM_FAIL(err, KM_EFORMAT, "%s: %s: %s", m->from->path, km_table_text(problems, 0, 0, NULL),
                km_table_text(problems, 1, 0, NULL));
    }
done:
    km_table_free(problems);
    return status;
}

/* Texts that later questions read as JSON. */
static const char bad_json[] =
    "SELECT 'model ' || fingerprint FROM temp.their_models WHERE NOT json_valid(coalesce(config, "
    "'{}'))"
    " UNION ALL SELECT 'fact ' || id FROM temp.their_facts WHERE NOT json_valid(answers)"
    " UNION ALL SELECT 'run ' || id FROM temp.their_runs WHERE NOT json_valid(parameters)"
    " UNION ALL SELECT 'lineage ' || id FROM temp.their_lineage WHERE NOT "
    "json_valid(coalesce(recipe, '{}'))"
    " LIMIT 1";

static km_status check_json(const merge *m, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    KM_GO(km__kb_prepare(&stmt, m->kb, bad_json, err));
    KM_GO(km__kb_step(&row, m->kb, stmt, err));
    if (row) {
        KM_FAIL(err, KM_EFORMAT, "%s: %.120s: not JSON", m->from->path,
                (const char *)sqlite3_column_text(stmt, 0));
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

/* All its tables are read in one read transaction. */
static km_status stage(merge *m, km_error *err) {
    KM_TRY(km__kb_exec(m->from, "BEGIN", err));
    KM_TRY(check_other(m, err));
    for (int i = 0; i < N_STAGED; i++) {
        KM_TRY(stage_table(m, staged[i], err));
    }
    return check_json(m, err);
}

/* ---- the list of what happened ---- */

static const char make_report[] =
    "DROP TABLE IF EXISTS temp.report; DROP TABLE IF EXISTS temp.run_map;"
    "CREATE TEMP TABLE report (what TEXT, outcome TEXT, n INTEGER, key TEXT, ours TEXT,"
    " theirs TEXT);"
    "CREATE TEMP TABLE run_map (theirs INTEGER PRIMARY KEY, ours INTEGER NOT NULL UNIQUE)";

km_status km__kb_merge_note(km_kb *kb, const char *what, const char *outcome, int64_t n,
                            const char *key, const char *theirs, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    KM_GO(km__kb_prepare(&stmt, kb,
                         "INSERT INTO temp.report (what, outcome, n, key, theirs)"
                         " VALUES (?1, ?2, ?3, ?4, ?5)",
                         err));
    KM_GO(km__kb_bind_text(kb, stmt, 1, what, -1, err));
    KM_GO(km__kb_bind_text(kb, stmt, 2, outcome, -1, err));
    KM_GO(km__kb_bind_int(kb, stmt, 3, n, err));
    KM_GO(km__kb_bind_text(kb, stmt, 4, key, -1, err));
    KM_GO(km__kb_bind_text(kb, stmt, 5, theirs, -1, err));
    KM_GO(km__kb_run(kb, stmt, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

km_status km__kb_merge_added(km_kb *kb, const char *what, int64_t n, km_error *err) {
    return n > 0 ? km__kb_merge_note(kb, what, "added", n, NULL, NULL, err) : KM_OK;
}

/* Run a statement that inserts rows of `what`, and list how many it added. */
static km_status add_rows(const merge *m, const char *what, const char *sql, km_error *err) {
    KM_TRY(km__kb_exec(m->kb, sql, err));
    return km__kb_merge_added(m->kb, what, sqlite3_changes(m->kb->db), err);
}

/* ---- tables whose rows have a key of their own ---- */

typedef struct keyed {
    const char *table;
    const char *same;    /* when a row `t` of theirs is the row `o` of ours */
    const char *key;     /* how it is named in the list */
    const char *compare; /* "json_array(%s.a, %s.b)" over what must not differ */
    const char *insert;
} keyed;

static const keyed keyed_tables[] = {
    {"works", "o.key = t.key", "t.key",
     "json_array(%s.title, %s.authors, %s.year, %s.venue, %s.arxiv, %s.note)",
     "INSERT INTO works (key, title, authors, year, venue, arxiv, verified_by, note, origin)"
     " SELECT key, title, authors, year, venue, arxiv, verified_by, note, 'user'"
     " FROM temp.their_works WHERE true ON CONFLICT DO NOTHING"},
    {"edges", "o.work = t.work AND o.node = t.node AND o.relation = t.relation",
     "t.work || ' ' || t.relation || ' ' || t.node", "json_array(%s.evidence, %s.note)",
     "INSERT INTO edges (work, node, relation, evidence, note, origin)"
     " SELECT t.work, t.node, t.relation, t.evidence, t.note, 'user' FROM temp.their_edges AS t"
     " JOIN nodes AS n ON n.id = t.node WHERE true ON CONFLICT DO NOTHING"},
    {"seed_places", "false", "t.work", "%s.work",
     "INSERT INTO seed_places SELECT t.* FROM temp.their_seed_places AS t"
     " JOIN nodes AS n ON n.id = t.node WHERE true ON CONFLICT DO NOTHING"},
    {"measures", "o.id = t.id", "t.id", "json_array(%s.module, %s.title)",
     "INSERT INTO measures (id, module, title, status) SELECT id, module, title, 'user'"
     " FROM temp.their_measures WHERE true ON CONFLICT DO NOTHING"},
    /* What km's own measures may bear on is km's to say. */
    {"measure_nodes", "false", "t.measure", "%s.measure",
     "INSERT INTO measure_nodes (measure, node, origin) SELECT t.measure, t.node, 'user'"
     " FROM temp.their_measure_nodes AS t JOIN measures AS m ON m.id = t.measure AND m.status = "
     "'user'"
     " JOIN nodes AS n ON n.id = t.node WHERE true ON CONFLICT DO NOTHING"},
    {"models", "o.fingerprint = t.fingerprint", "t.fingerprint",
     "json_array(%s.name, %s.architecture, %s.precision, %s.tokenizer_hash, %s.n_parameters,"
     " %s.config)",
     "INSERT INTO models (fingerprint, name, architecture, precision, path, tokenizer_hash,"
     " n_parameters, config, recorded) SELECT fingerprint, name, architecture, precision, path,"
     " tokenizer_hash, n_parameters, config, recorded FROM temp.their_models WHERE true"
     " ORDER BY id ON CONFLICT (fingerprint) DO NOTHING"},
    {"facts", "o.id = t.id", "t.id",
     "json_array(%s.relation, %s.subject, %s.answers, %s.source, %s.licence)",
     "INSERT INTO facts SELECT * FROM temp.their_facts WHERE true ON CONFLICT DO NOTHING"},
    {"texts", "o.id = t.id", "t.id", "json_array(%s.title, %s.body, %s.source, %s.licence)",
     "INSERT INTO texts SELECT * FROM temp.their_texts WHERE true ON CONFLICT DO NOTHING"},
};

/* `format` with a row's name in the place of each %s. */
static km_status name_rows(km__kb_text *out, const char *format, const char *row, km_error *err) {
    for (const char *at = format;;) {
        const char *next = strstr(at, "%s");
        if (next == NULL) {
            return km__kb_text_add(out, at, strlen(at), err);
        }
        KM_TRY(km__kb_text_add(out, at, (size_t)(next - at), err));
        KM_TRY(km__kb_text_add(out, row, strlen(row), err));
        at = next + 2;
    }
}

static km_status list_differences(const merge *m, const keyed *table, km_error *err) {
    km_status status = KM_OK;
    km__kb_text ours = {m->kb->ctx, NULL, 0, 0}, theirs = {m->kb->ctx, NULL, 0, 0};
    char *sql = NULL;
    KM_GO(name_rows(&ours, table->compare, "o", err));
    KM_GO(name_rows(&theirs, table->compare, "t", err));
    sql = sqlite3_mprintf("INSERT INTO temp.report SELECT '%q', 'differs', 1, %s, %s, %s"
                          " FROM temp.\"their_%w\" AS t JOIN main.\"%w\" AS o ON %s"
                          " WHERE %s IS NOT %s",
                          table->table, table->key, ours.data, theirs.data, table->table,
                          table->table, table->same, ours.data, theirs.data);
    KM_GO(sql == NULL ? KM_SET(err, KM_ENOMEM, "no memory for a statement")
                      : km__kb_exec(m->kb, sql, err));
done:
    sqlite3_free(sql);
    km__kb_text_free(&ours);
    km__kb_text_free(&theirs);
    return status;
}

static km_status merge_keyed(const merge *m, km_error *err) {
    for (size_t i = 0; i < sizeof keyed_tables / sizeof keyed_tables[0]; i++) {
        const keyed *table = &keyed_tables[i];
        KM_TRY(list_differences(m, table, err));
        KM_TRY(add_rows(m, table->table, table->insert, err));
    }
    return KM_OK;
}

/* ---- nodes of the taxonomy ---- */

static const keyed node_table = {
    "nodes", "o.id = t.id", "t.id",
    "json_array(%s.parent, %s.name, %s.kind, %s.summary, %s.evidence, %s.survey_section)", ""};

/* New nodes whose parents are here, behind all others, as the user's; renumbered afterwards. */
static const char add_level[] =
    "INSERT INTO nodes (id, parent, name, kind, summary, evidence, survey_section, depth,"
    " tree_enter, tree_leave, origin) SELECT t.id, t.parent, t.name, t.kind, t.summary, t.evidence,"
    " t.survey_section, 0, top + row_number() OVER (ORDER BY t.tree_enter), 0, 'user'"
    " FROM temp.their_nodes AS t JOIN (SELECT max(tree_enter) AS top FROM nodes)"
    " WHERE t.id NOT IN (SELECT id FROM nodes) AND t.parent IN (SELECT id FROM nodes)";
static const char list_homeless[] =
    "INSERT INTO temp.report SELECT 'nodes', 'refused', 1, id, NULL, 'its parent is not here: '"
    " || coalesce(parent, 'it has none') FROM temp.their_nodes"
    " WHERE id NOT IN (SELECT id FROM nodes)";

static km_status merge_nodes(const merge *m, km_error *err) {
    int64_t n_new = 0;
    KM_TRY(list_differences(m, &node_table, err));
    for (int level = 0; level < MAX_DEPTH; level++) {
        KM_TRY(km__kb_exec(m->kb, add_level, err));
        int64_t n = sqlite3_changes(m->kb->db);
        if (n == 0) {
            break;
        }
        n_new += n;
    }
    KM_TRY(km__kb_exec(m->kb, list_homeless, err));
    if (n_new == 0) {
        return KM_OK;
    }
    KM_TRY(km__kb_number_tree(m->kb, err));
    return km__kb_merge_added(m->kb, "nodes", n_new, err);
}

/* ---- runs ---- */

/* A run with a result has its content key. Others are known by all that was said when they began,
 * and by their order among those that began alike. A run that went on since the files parted has
 * its key in one of them only. */
static const char map_runs[] =
    "DROP TABLE IF EXISTS temp.identity;"
    "CREATE TEMP TABLE identity AS SELECT true AS ours, r.id, r.key, json_array(r.measure,"
    "  r.version, r.parameters, m.fingerprint, r.seed, r.started, r.command, r.note) AS said"
    " FROM runs AS r LEFT JOIN models AS m ON m.id = r.model"
    " UNION ALL SELECT false, r.id, r.key, json_array(r.measure, r.version, r.parameters,"
    "  m.fingerprint, r.seed, r.started, r.command, r.note)"
    " FROM temp.their_runs AS r LEFT JOIN temp.their_models AS m ON m.id = r.model;"
    "INSERT INTO temp.run_map SELECT t.id, o.id FROM temp.their_runs AS t"
    " JOIN runs AS o ON o.key = t.key;"
    "WITH nth AS (SELECT *, row_number() OVER (PARTITION BY ours, said ORDER BY id) AS place"
    "             FROM temp.identity WHERE key IS NULL)"
    " INSERT INTO temp.run_map SELECT t.id, o.id FROM nth AS t"
    " JOIN nth AS o ON o.ours AND o.said = t.said AND o.place = t.place WHERE NOT t.ours;"
    "INSERT INTO temp.run_map SELECT min(t.id), min(o.id) FROM temp.identity AS t"
    " JOIN temp.identity AS o ON o.ours AND o.said = t.said AND (o.key IS NULL OR t.key IS NULL)"
    " WHERE NOT t.ours AND t.id NOT IN (SELECT theirs FROM temp.run_map)"
    "  AND o.id NOT IN (SELECT ours FROM temp.run_map) GROUP BY t.said;"
    "DROP TABLE temp.identity";
static const char go_on[] =
    "UPDATE runs SET status = t.status, finished = t.finished, key = coalesce(runs.key, t.key)"
    " FROM temp.their_runs AS t JOIN temp.run_map AS x ON x.theirs = t.id"
    " WHERE runs.id = x.ours AND ((runs.status = 'running' AND t.status <> 'running')"
    "  OR (runs.key IS NULL AND t.key IS NOT NULL))";
static const char map_new_runs[] =
    "INSERT INTO temp.run_map SELECT id, top + row_number() OVER (ORDER BY id)"
    " FROM temp.their_runs JOIN (SELECT coalesce(max(id), 0) AS top FROM runs)"
    " WHERE id NOT IN (SELECT theirs FROM temp.run_map)";
static const char add_runs[] =
    "INSERT INTO runs (id, key, measure, version, parameters, model, seed, status, started,"
    " finished, km_version, cpu, blas_core, command, note)"
    " SELECT x.ours, t.key, t.measure, t.version, t.parameters, o.id, t.seed, t.status, t.started,"
    " t.finished, t.km_version, t.cpu, t.blas_core, t.command, t.note"
    " FROM temp.their_runs AS t JOIN temp.run_map AS x ON x.theirs = t.id"
    " LEFT JOIN temp.their_models AS m ON m.id = t.model"
    " LEFT JOIN models AS o ON o.fingerprint = m.fingerprint"
    " WHERE x.ours NOT IN (SELECT id FROM runs) ORDER BY x.ours";

static km_status merge_runs(const merge *m, km_error *err) {
    KM_TRY(km__kb_exec(m->kb, map_runs, err));
    KM_TRY(km__kb_exec(m->kb, go_on, err));
    int64_t n = sqlite3_changes(m->kb->db);
    if (n > 0) {
        KM_TRY(km__kb_merge_note(m->kb, "runs", "went on", n, NULL, NULL, err));
    }
    KM_TRY(km__kb_exec(m->kb, map_new_runs, err));
    return add_rows(m, "runs", add_runs, err);
}

/* ---- measurements ---- */

static const char chunks_to_read[] =
    "SELECT t.key, x.ours, t.stored, t.digest, o.digest FROM temp.their_chunks AS t"
    " JOIN temp.run_map AS x ON x.theirs = t.run LEFT JOIN chunks AS o ON o.key = t.key"
    " WHERE o.digest IS NOT t.digest ORDER BY t.id";
static const char add_uses[] =
    "INSERT INTO run_chunks SELECT x.ours, o.id FROM temp.their_run_chunks AS t"
    " JOIN temp.run_map AS x ON x.theirs = t.run JOIN temp.their_chunks AS c ON c.id = t.chunk"
    " JOIN chunks AS o ON o.key = c.key WHERE true ON CONFLICT DO NOTHING";
static const char add_conflicts[] =
    "INSERT INTO conflicts (chunk, run, digest, max_difference, found)"
    " SELECT o.id, x.ours, t.digest, t.max_difference, t.found FROM temp.their_conflicts AS t"
    " JOIN temp.run_map AS x ON x.theirs = t.run JOIN temp.their_chunks AS c ON c.id = t.chunk"
    " JOIN chunks AS o ON o.key = c.key WHERE t.digest <> o.digest ORDER BY t.id"
    " ON CONFLICT DO NOTHING";

static km_status set_stored(km_kb *kb, const char *key, const char *stored, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    KM_GO(km__kb_prepare(&stmt, kb, "UPDATE chunks SET stored = ?2 WHERE key = ?1", err));
    KM_GO(km__kb_bind_text(kb, stmt, 1, key, -1, err));
    KM_GO(km__kb_bind_text(kb, stmt, 2, stored, -1, err));
    KM_GO(km__kb_run(kb, stmt, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

/* `chunk` stands on a row of chunks_to_read. Reading checks the rows against their digest. */
static km_status merge_chunk(int64_t *n_new, const merge *m, sqlite3_stmt *chunk, km_error *err) {
    km_status status = KM_OK;
    km_table *table = NULL;
    km_kb_stored stored = KM_KB_SAME;
    const char *key = (const char *)sqlite3_column_text(chunk, 0);
    int64_t run = sqlite3_column_int64(chunk, 1);
    KM_GO(km_kb_load_chunk(&table, m->from, key == NULL ? "" : key, err));
    if (table == NULL) {
        KM_FAIL(err, KM_EFORMAT, "%s: a chunk is not found by its key", m->from->path);
    }
    KM_GO(km_kb_store_chunk(&stored, m->kb, run, key, table, err));
    if (stored == KM_KB_STORED) {
        KM_GO(set_stored(m->kb, key, (const char *)sqlite3_column_text(chunk, 2), err));
        (*n_new)++;
    } else if (stored == KM_KB_DIFFERS) {
        KM_GO(km__kb_merge_note(m->kb, "chunks", "differs", 1, key,
                                (const char *)sqlite3_column_text(chunk, 3), err));
    }
done:
    km_table_free(table);
    return status;
}

static km_status merge_chunks(merge *m, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false, found = false;
    int64_t n_new = 0;
    KM_GO(km__kb_scalar(&m->tick.total, &found, m->kb, "SELECT count(*) FROM temp.their_chunks",
                        NULL, NULL, err));
    KM_GO(km__kb_prepare(&stmt, m->kb, chunks_to_read, err));
    for (;; m->done++) {
        KM_GO(km__kb_step(&row, m->kb, stmt, err));
        if (!row) {
            break;
        }
        KM_GO(merge_chunk(&n_new, m, stmt, err));
        KM_GO(km_tick_update(&m->tick, m->done, err));
    }
    KM_GO(km__kb_merge_added(m->kb, "chunks", n_new, err));
    KM_GO(km__kb_exec(m->kb, add_uses, err));
    KM_GO(add_rows(m, "conflicts", add_conflicts, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

/* ---- what follows from runs ---- */

static const char refuse_evidence[] =
    "INSERT INTO temp.report SELECT 'evidence', 'refused', 1, t.measure || ' ' || t.node, NULL,"
    " 'the measure is not declared to bear on the node here' FROM temp.their_evidence AS t"
    " LEFT JOIN measure_nodes AS n ON n.measure = t.measure AND n.node = t.node"
    " WHERE n.node IS NULL GROUP BY t.measure, t.node";
static const char list_evidence[] =
    "INSERT INTO temp.report SELECT 'evidence', 'differs', 1, o.run || ' ' || o.node || ' '"
    "  || o.measure || ' ' || o.statistic, json_array(o.value, o.low, o.high, o.n, o.baseline),"
    "  json_array(t.value, t.low, t.high, t.n, t.baseline)"
    " FROM temp.their_evidence AS t JOIN temp.run_map AS x ON x.theirs = t.run"
    " JOIN evidence AS o ON o.run = x.ours AND o.node = t.node AND o.measure = t.measure"
    "  AND o.statistic = t.statistic"
    " WHERE (o.value, o.low, o.high, o.n, o.unit, o.baseline, o.note) IS NOT"
    "       (t.value, t.low, t.high, t.n, t.unit, t.baseline, t.note)";
static const char add_evidence[] =
    "INSERT INTO evidence (run, node, measure, statistic, value, low, high, n, unit, baseline,"
    " note) SELECT x.ours, t.node, t.measure, t.statistic, t.value, t.low, t.high, t.n, t.unit,"
    " t.baseline, t.note FROM temp.their_evidence AS t JOIN temp.run_map AS x ON x.theirs = t.run"
    " JOIN measure_nodes AS n ON n.measure = t.measure AND n.node = t.node ORDER BY t.id"
    " ON CONFLICT DO NOTHING";

static km_status merge_evidence(const merge *m, km_error *err) {
    KM_TRY(km__kb_exec(m->kb, refuse_evidence, err));
    KM_TRY(km__kb_exec(m->kb, list_evidence, err));
    return add_rows(m, "evidence", add_evidence, err);
}

/* One step at a time: each may close a circle with those before it. */
static const char add_step[] =
    "INSERT INTO lineage (child, parent, kind, run, step, recipe, recorded)"
    " SELECT t.child, t.parent, t.kind, x.ours, t.step, t.recipe, t.recorded"
    " FROM temp.their_lineage AS t LEFT JOIN temp.run_map AS x ON x.theirs = t.run"
    " WHERE t.id = ?1 AND NOT EXISTS (WITH RECURSIVE up (model) AS (SELECT t.parent UNION"
    "  SELECT l.parent FROM up JOIN lineage AS l ON l.child = up.model)"
    "  SELECT 1 FROM up WHERE model = t.child)"
    " ON CONFLICT DO NOTHING";
static const char list_steps[] =
    "INSERT INTO temp.report SELECT 'lineage', iif(o.id IS NULL, 'refused', 'differs'), 1,"
    "  t.child || ' ' || t.kind || ' ' || t.parent, json_array(o.step, o.recipe),"
    "  iif(o.id IS NULL, 'the parent comes from the child here', json_array(t.step, t.recipe))"
    " FROM temp.their_lineage AS t LEFT JOIN lineage AS o"
    "  ON o.child = t.child AND o.parent = t.parent AND o.kind = t.kind"
    " WHERE o.id IS NULL OR (o.step, o.recipe) IS NOT (t.step, t.recipe)";

static km_status merge_lineage(const merge *m, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *ids = NULL, *insert = NULL;
    bool row = false;
    int64_t n_new = 0;
    KM_GO(km__kb_prepare(&ids, m->kb, "SELECT id FROM temp.their_lineage ORDER BY id", err));
    KM_GO(km__kb_prepare(&insert, m->kb, add_step, err));
    for (;;) {
        KM_GO(km__kb_step(&row, m->kb, ids, err));
        if (!row) {
            break;
        }
        KM_GO(km__kb_bind_int(m->kb, insert, 1, sqlite3_column_int64(ids, 0), err));
        KM_GO(km__kb_run(m->kb, insert, err));
        n_new += sqlite3_changes(m->kb->db);
    }
    KM_GO(km__kb_exec(m->kb, list_steps, err));
    KM_GO(km__kb_merge_added(m->kb, "lineage", n_new, err));
done:
    sqlite3_finalize(ids);
    sqlite3_finalize(insert);
    return status;
}

/* ---- the whole ---- */

static km_status merge_all(merge *m, km_error *err) {
    static const char *const searched[] = {"node", "work", "fact", "text"};
    KM_TRY(km__kb_exec(m->kb, make_report, err));
    KM_TRY(stage(m, err));
    KM_TRY(merge_nodes(m, err));
    KM_TRY(merge_keyed(m, err));
    for (int i = 0; i < 4; i++) {
        KM_TRY(km__kb_index(m->kb, searched[i], err));
    }
    KM_TRY(merge_runs(m, err));
    KM_TRY(merge_chunks(m, err));
    KM_TRY(merge_evidence(m, err));
    KM_TRY(merge_lineage(m, err));
    return km__kb_merge_ledger(m->kb, m->from->path, err);
}

/* What our schema refuses is the other file's fault. */
static km_status explain(const merge *m, km_status status, km_error *err) {
    if (m->stopped != KM_OK) {
        *err = m->reason;
        return m->stopped;
    }
    if (status == KM_EINVAL || status == KM_ERANGE || status == KM_ENOTFOUND) {
        km_error why = *err;
        return KM_SET(err, KM_EFORMAT, "%s: %.400s", m->from->path, why.message);
    }
    return status;
}

static km_status read_report(km_table **out, km_kb *kb, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    KM_GO(km__kb_prepare(&stmt, kb,
                         "SELECT what, outcome, n, key, ours, theirs FROM temp.report"
                         " ORDER BY outcome <> 'added', outcome, rowid",
                         err));
    KM_GO(km__kb_collect(out, kb, stmt, INT64_MAX, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

static void drop_temporary(km_kb *kb) {
    (void)sqlite3_exec(kb->db,
                       "DROP TABLE IF EXISTS temp.report; DROP TABLE IF EXISTS temp.run_map", NULL,
                       NULL, NULL);
    for (int i = 0; i < N_STAGED; i++) {
        km_error ignored = KM_ERROR_INIT;
        (void)exec_for(kb, "DROP TABLE IF EXISTS temp.\"their_%w\"", staged[i], &ignored);
    }
}

static km_status run_merge(km_table **out, merge *m, km_error *err) {
    KM_TRY(km_kb_begin(m->kb, err));
    watch(m, true);
    km_status status = merge_all(m, err);
    if (status == KM_OK) {
        status = read_report(out, m->kb, err);
    }
    watch(m, false);
    if (status != KM_OK) {
        status = explain(m, status, err);
    }
    status = km__kb_end(m->kb, status, err);
    drop_temporary(m->kb);
    return status;
}

km_status km_kb_merge(km_table **out, km_kb *kb, const char *path, km_tick_fn fn, void *payload,
                      km_error *err) {
    const km_kb_options reading = {true, true, 0};
    merge m = {kb, NULL, {0}, 0, KM_OK, KM_ERROR_INIT};
    *out = NULL;
    KM_TRY(km__kb_writable(kb, err));
    KM_TRY(km_kb_open(&m.from, kb->ctx, path, &reading, err));
    km_tick_init(&m.tick, kb->ctx, fn, payload, 0);
    km_status status = run_merge(out, &m, err);
    if (status != KM_OK) {
        km_table_free(*out);
        *out = NULL;
    }
    km_kb_close(m.from);
    return status;
}
