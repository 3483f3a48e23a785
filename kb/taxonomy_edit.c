/* taxonomy_edit.c: what a user adds to the taxonomy, moves in it, or reads from a file.
 *
 * What is there with the same content is left alone; what is there with other content stays and is
 * listed, in the answer and in `taxonomy_conflicts`. */

#include <string.h>

#include "base/json.h"
#include "kb_private.h"

static const km__kb_field move_fields[] = {
    {"id", KM__KB_TEXT, true},
    {"parent", KM__KB_TEXT, true},
};
#define N_MOVE_FIELDS ((int)(sizeof move_fields / sizeof move_fields[0]))

/* ---- nodes ---- */

static const char homeless[] =
    "SELECT printf('nodes[%d]: ''%s'': %s', place - 1, id, iif(parent IS NULL,"
    " '''parent'' is missing', printf('there is no node ''%s'' to put it below', parent)))"
    " FROM temp.in_nodes WHERE ((parent IS NULL AND id NOT IN (SELECT id FROM nodes))"
    " OR (parent NOT IN (SELECT id FROM nodes) AND parent NOT IN (SELECT id FROM temp.in_nodes)))"
    " LIMIT 1";

/* Content is compared with where km has a node; where the user has it is a move. */
static const char add_nodes[] =
    "DROP TABLE IF EXISTS temp.to_move;"
    "CREATE TEMP TABLE to_move AS SELECT t.place, t.id, t.parent, o.parent AS now,"
    " o.shipped_parent IS NULL AND o.origin = 'km' AS free FROM temp.in_nodes AS t"
    " JOIN nodes AS o ON o.id = t.id WHERE t.shipped_parent IS NOT NULL AND o.parent <> t.parent"
    " AND t.id NOT IN (SELECT key FROM temp.tax_report WHERE what = 'nodes');"
    "INSERT INTO temp.tax_report SELECT 'nodes', 'differs', 1, id, json_quote(now),"
    " json_quote(parent) FROM temp.to_move WHERE NOT free;"
    "DELETE FROM temp.to_move WHERE NOT free;"
    "INSERT INTO nodes (id, parent, name, kind, summary, evidence, survey_section, depth,"
    " tree_enter, tree_leave, origin) SELECT id, parent, name, kind, summary, evidence,"
    " survey_section, 0, top + place, 0, 'user' FROM temp.in_nodes"
    " JOIN (SELECT coalesce(max(tree_enter), 0) AS top FROM nodes)"
    " WHERE true ORDER BY place ON CONFLICT (id) DO NOTHING";

/* ---- moves ---- */

/* Behind its new siblings; back where km has it, a node counts as not moved. */
static const char move_node[] =
    "UPDATE nodes SET shipped_parent = iif(origin = 'km' AND ?2 IS NOT"
    "  coalesce(shipped_parent, parent), coalesce(shipped_parent, parent), NULL), parent = ?2,"
    " tree_enter = (SELECT max(tree_enter) FROM nodes) + 1 WHERE id = ?1";
static const char above[] = "WITH RECURSIVE up (id) AS (SELECT ?2 UNION SELECT n.parent FROM up"
                            " JOIN nodes AS n ON n.id = up.id) SELECT 1 FROM up WHERE id = ?1";

static km_status check_move(bool *there, km_kb *kb, const char *id, const char *parent,
                            km_error *err) {
    static const char exists[] = "SELECT 1 FROM nodes WHERE id = ?1";
    static const char below[] = "SELECT 1 FROM nodes WHERE id = ?1 AND parent = ?2";
    int64_t one = 0;
    bool found = false;
    const char *both[] = {id, parent};
    for (int i = 0; i < 2; i++) {
        KM_TRY(km__kb_scalar(&one, &found, kb, exists, both[i], NULL, err));
        if (!found) {
            return KM_SET(err, KM_ENOTFOUND, "the taxonomy has no node '%.80s'", both[i]);
        }
    }
    KM_TRY(km__kb_scalar(&one, &found, kb, "SELECT 1 FROM nodes WHERE id = ?1 AND parent IS NULL",
                         id, NULL, err));
    if (found) {
        return KM_SET(err, KM_EINVAL, "the root '%.80s' cannot be moved", id);
    }
    KM_TRY(km__kb_scalar(&one, &found, kb, above, id, parent, err));
    if (found) {
        return KM_SET(err, KM_EINVAL,
                      "'%.80s' cannot be put below '%.80s': it would lie below"
                      " itself",
                      id, parent);
    }
    return km__kb_scalar(&one, there, kb, below, id, parent, err);
}

static km_status move_one(km_kb *kb, const char *id, const char *parent, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool there = false;
    KM_TRY(check_move(&there, kb, id, parent, err));
    if (there) {
        return KM_OK;
    }
    KM_GO(km__kb_prepare(&stmt, kb,
                         "INSERT INTO temp.tax_report SELECT 'nodes', 'moved', 1, id,"
                         " json_quote(?2), json_quote(parent) FROM nodes WHERE id = ?1",
                         err));
    KM_GO(km__kb_bind_text(kb, stmt, 1, id, -1, err));
    KM_GO(km__kb_bind_text(kb, stmt, 2, parent, -1, err));
    KM_GO(km__kb_run(kb, stmt, err));
    sqlite3_finalize(stmt);
    KM_GO(km__kb_prepare(&stmt, kb, move_node, err));
    KM_GO(km__kb_bind_text(kb, stmt, 1, id, -1, err));
    KM_GO(km__kb_bind_text(kb, stmt, 2, parent, -1, err));
    KM_GO(km__kb_run(kb, stmt, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

/* Moves of the file's nodes first, then those that were asked for. */
static km_status move_all(km_kb *kb, json_t *moves, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    int64_t n = 0;
    if (moves != NULL && !json_is_array(moves)) {
        return KM_SET(err, KM_EINVAL, "'moves' must be an array");
    }
    KM_GO(km__kb_insert_records(&n, kb,
                                "INSERT INTO temp.to_move (place, id, parent) VALUES"
                                " ((SELECT coalesce(max(place), 0) + 1 FROM temp.to_move), ?1, ?2)",
                                move_fields, N_MOVE_FIELDS, moves, "moves", err));
    KM_GO(km__kb_prepare(&stmt, kb, "SELECT id, parent FROM temp.to_move ORDER BY place", err));
    for (;;) {
        KM_GO(km__kb_step(&row, kb, stmt, err));
        if (!row) {
            break;
        }
        KM_GO(move_one(kb, (const char *)sqlite3_column_text(stmt, 0),
                       (const char *)sqlite3_column_text(stmt, 1), err));
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

/* ---- works, edges, measures ---- */

static const char add_works[] =
    "INSERT INTO works (key, title, authors, year, venue, arxiv, verified_by, note, origin)"
    " SELECT key, title, authors, year, venue, arxiv, verified_by, note, 'user'"
    " FROM temp.in_works WHERE true ORDER BY place ON CONFLICT DO NOTHING";
static const char add_edges[] =
    "INSERT INTO edges (work, node, relation, evidence, note, origin)"
    " SELECT work, node, relation, evidence, note, 'user' FROM temp.in_edges WHERE true"
    " ORDER BY place ON CONFLICT DO NOTHING";
static const char add_measures[] =
    "INSERT INTO measures (id, module, status, title) SELECT id, module, 'user', title"
    " FROM temp.in_measures WHERE true ORDER BY place ON CONFLICT DO NOTHING";
/* What km's own measures may bear on is km's to say. */
static const char add_measure_nodes[] =
    "INSERT INTO measure_nodes (measure, node, origin) SELECT t.measure, t.node, 'user'"
    " FROM temp.in_measure_nodes AS t JOIN measures AS m ON m.id = t.measure"
    " AND m.status = 'user' WHERE true ON CONFLICT DO NOTHING";

/* List what differs, run statements of which the last inserts rows, and list how many. */
static km_status add(km_kb *kb, const char *what, const char *sql, km_error *err) {
    if (strcmp(what, "measure_nodes") != 0) {
        KM_TRY(km__kb_list_differences(kb, what, false, err));
    }
    KM_TRY(km__kb_exec(kb, sql, err));
    char *note = sqlite3_mprintf("INSERT INTO temp.tax_report SELECT '%q', 'added', %d, NULL, NULL,"
                                 " NULL WHERE %d > 0",
                                 what, sqlite3_changes(kb->db), sqlite3_changes(kb->db));
    if (note == NULL) {
        return KM_SET(err, KM_ENOMEM, "no memory for a statement");
    }
    km_status status = km__kb_exec(kb, note, err);
    sqlite3_free(note);
    return status;
}

static km_status refuse_unknown_members(json_t *root, km_error *err) {
    static const char known[] = " nodes works edges measurements moves ";
    const char *name;
    json_t *value;
    json_object_foreach(root, name, value) {
        size_t n = strlen(name);
        const char *at = n == 0 ? NULL : strstr(known, name);
        if (at == NULL || at == known || at[-1] != ' ' || at[n] != ' ') {
            return KM_SET(err, KM_EINVAL, "unknown member '%.60s'", name);
        }
    }
    return KM_OK;
}

static km_status edit_all(km_kb *kb, json_t *root, km_error *err) {
    KM_TRY(refuse_unknown_members(root, err));
    KM_TRY(km__kb_stage_taxonomy(kb, root, true, err));
    KM_TRY(km__kb_refuse_rows(kb, homeless, err));
    KM_TRY(add(kb, "nodes", add_nodes, err));
    KM_TRY(move_all(kb, json_object_get(root, "moves"), err));
    KM_TRY(add(kb, "works", add_works, err));
    KM_TRY(km__kb_check_ends(kb, err));
    KM_TRY(add(kb, "edges", add_edges, err));
    KM_TRY(add(kb, "measures", add_measures, err));
    KM_TRY(add(kb, "measure_nodes", add_measure_nodes, err));
    return km__kb_finish_taxonomy(kb, "import", err);
}

static km_status read_report(km_table **out, km_kb *kb, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    KM_GO(km__kb_prepare(&stmt, kb,
                         "SELECT what, outcome, n, key, ours, theirs FROM temp.tax_report"
                         " ORDER BY outcome, rowid",
                         err));
    KM_GO(km__kb_collect(out, kb, stmt, INT64_MAX, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

km_status km_kb_edit_taxonomy(km_table **out, km_kb *kb, const char *json, size_t n,
                              km_error *err) {
    km_status status = KM_OK;
    json_t *root = NULL;
    *out = NULL;
    KM_TRY(km__kb_begin_with(&root, kb, "taxonomy", json, n, false, err));
    status = edit_all(kb, root, err);
    if (status != KM_OK) {
        km_error_prefix(err, "taxonomy");
    } else {
        status = read_report(out, kb, err);
    }
    json_decref(root);
    status = km__kb_end(kb, status, err);
    km__kb_unstage_taxonomy(kb);
    if (status != KM_OK) {
        km_table_free(*out);
        *out = NULL;
    }
    return status;
}
