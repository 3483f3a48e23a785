/* taxonomy.c: load the taxonomy that km ships, or a newer one in its place.
 *
 * What km shipped before is renewed. What the user added or moved stays: where the new taxonomy
 * says something else about it, that is listed in `taxonomy_conflicts`. */

#include <string.h>

#include "base/json.h"
#include "kb_private.h"

/* ---- nodes ---- */

/* Where each node is now, and numbers that leave those from 1 upward free. */
static const char keep_places[] =
    "DROP TABLE IF EXISTS temp.old_places;"
    "CREATE TEMP TABLE old_places AS SELECT id, parent FROM nodes;"
    "UPDATE nodes SET tree_enter = -1 - tree_enter;"
    "DELETE FROM edges WHERE origin = 'km'; DELETE FROM seed_places;"
    "DELETE FROM measure_nodes WHERE origin = 'km'"
    " AND NOT EXISTS (SELECT 1 FROM evidence AS e WHERE e.measure = measure_nodes.measure"
    "                 AND e.node = measure_nodes.node)";

/* The user's nodes whose ids km ships now: the same content becomes km's, other stays. */
static const char take_up_nodes[] =
    "UPDATE nodes SET origin = 'km' WHERE origin = 'user' AND id IN (SELECT id FROM temp.in_nodes)"
    " AND id NOT IN (SELECT key FROM temp.tax_report WHERE what = 'nodes')";

/* A node the user moved stays where it is; nodes of the user come behind their siblings. */
static const char renew_nodes[] =
    "INSERT INTO nodes (id, parent, name, kind, summary, evidence, survey_section, depth,"
    " tree_enter, tree_leave) SELECT id, parent, name, kind, summary, evidence, survey_section, 0,"
    " place, 0 FROM temp.in_nodes WHERE true ORDER BY place"
    " ON CONFLICT (id) DO UPDATE SET name = excluded.name, kind = excluded.kind,"
    " summary = excluded.summary, evidence = excluded.evidence,"
    " survey_section = excluded.survey_section, tree_enter = excluded.tree_enter,"
    " parent = iif(shipped_parent IS NULL, excluded.parent, parent),"
    " shipped_parent = iif(shipped_parent IS NULL OR parent IS excluded.parent, NULL,"
    "                      excluded.parent) WHERE nodes.origin = 'km';"
    "UPDATE nodes SET tree_enter = 1000000000 - tree_enter WHERE tree_enter < 0";

/* A node that km moves below what the user put below it stays where it was. */
static const char break_circles[] =
    "DROP TABLE IF EXISTS temp.adrift;"
    "CREATE TEMP TABLE adrift AS WITH RECURSIVE tree (id) AS ("
    "  SELECT id FROM nodes WHERE parent IS NULL UNION"
    "  SELECT n.id FROM tree JOIN nodes AS n ON n.parent = tree.id)"
    " SELECT id FROM nodes WHERE id NOT IN (SELECT id FROM tree);"
    "UPDATE nodes SET shipped_parent = nodes.parent, parent = old.parent"
    " FROM temp.old_places AS old WHERE old.id = nodes.id AND nodes.origin = 'km'"
    " AND nodes.shipped_parent IS NULL AND old.parent IS NOT nodes.parent"
    " AND old.parent IS NOT NULL AND nodes.id IN (SELECT id FROM temp.adrift);"
    "DROP TABLE temp.adrift; DROP TABLE temp.old_places;"
    "INSERT INTO temp.tax_report SELECT 'nodes', 'moved', 1, id, json_quote(parent),"
    " json_quote(shipped_parent) FROM nodes WHERE shipped_parent IS NOT NULL";

static const char find_gone[] = "DROP TABLE IF EXISTS temp.gone;"
                                "CREATE TEMP TABLE gone AS SELECT id FROM nodes WHERE origin = 'km'"
                                " AND id NOT IN (SELECT id FROM temp.in_nodes)";
static const char count_orphans[] =
    "SELECT count(*) FROM temp.gone WHERE id IN (SELECT node FROM measure_nodes"
    " WHERE origin = 'km' UNION ALL SELECT node FROM prediction_nodes)";

/* What km no longer has goes, but for what lies above or under something of the user's. */
static const char drop_gone[] =
    "DROP TABLE IF EXISTS temp.needed;"
    "CREATE TEMP TABLE needed AS WITH RECURSIVE needed (id) AS ("
    "  SELECT parent FROM nodes WHERE id NOT IN (SELECT id FROM temp.gone)"
    "  UNION SELECT node FROM edges WHERE origin = 'user'"
    "  UNION SELECT node FROM measure_nodes WHERE origin = 'user'"
    "  UNION SELECT n.parent FROM needed JOIN nodes AS n ON n.id = needed.id)"
    " SELECT id FROM needed WHERE id IN (SELECT id FROM temp.gone);"
    "INSERT INTO temp.tax_report SELECT 'nodes', 'gone', 1, id, json_quote(name), NULL FROM nodes"
    " WHERE id IN (SELECT id FROM temp.needed);"
    "UPDATE nodes SET origin = 'user', shipped_parent = NULL"
    " WHERE id IN (SELECT id FROM temp.needed);"
    "DELETE FROM nodes WHERE id IN (SELECT id FROM temp.gone)"
    " AND id NOT IN (SELECT id FROM temp.needed);"
    "DROP TABLE temp.gone; DROP TABLE temp.needed";

/* Parents precede their children in the file, and the first node is the root. */
static km_status check_order(const json_t *nodes, km_error *err) {
    km_status status = KM_OK;
    json_t *seen = json_object();
    size_t i;
    const json_t *node;
    if (seen == NULL) {
        KM_FAIL(err, KM_ENOMEM, "no memory for the taxonomy");
    }
    if (json_array_size(nodes) == 0) {
        KM_FAIL(err, KM_EFORMAT, "'nodes' must be an array that is not empty");
    }
    json_array_foreach(nodes, i, node) {
        const char *id = json_string_value(json_object_get(node, "id"));
        const char *parent = json_string_value(json_object_get(node, "parent"));
        if (id == NULL || json_object_get(seen, id) != NULL) {
            KM_FAIL(err, KM_EFORMAT, "nodes[%zu]: %s", i,
                    id == NULL ? "'id' is missing" : "its id was there before");
        }
        if ((parent == NULL) != (i == 0) ||
            (parent != NULL && json_object_get(seen, parent) == NULL)) {
            KM_FAIL(err, KM_EFORMAT,
                    "node '%.80s': the first node is the only root, and parents precede children",
                    id);
        }
        if (json_object_set_new(seen, id, json_true()) != 0) {
            KM_FAIL(err, KM_ENOMEM, "no memory for the taxonomy");
        }
    }
done:
    json_decref(seen);
    return status;
}

static km_status load_nodes(km_kb *kb, km_error *err) {
    int64_t n_orphans = 0;
    bool found = false;
    KM_TRY(km__kb_exec(kb, keep_places, err));
    KM_TRY(km__kb_list_differences(kb, "nodes", true, err));
    KM_TRY(km__kb_exec(kb, take_up_nodes, err));
    KM_TRY(km__kb_exec(kb, renew_nodes, err));
    KM_TRY(km__kb_exec(kb, break_circles, err));
    KM_TRY(km__kb_exec(kb, find_gone, err));
    KM_TRY(km__kb_scalar(&n_orphans, &found, kb, count_orphans, NULL, NULL, err));
    if (n_orphans > 0) {
        return KM_SET(err, KM_EINVAL,
                      "recorded evidence or predictions point to %lld nodes it does not have",
                      (long long)n_orphans);
    }
    return km__kb_exec(kb, drop_gone, err);
}

/* ---- works, edges, places, measures ---- */

static const char renew_works[] =
    "UPDATE works SET origin = 'km' WHERE origin = 'user' AND key IN (SELECT key FROM "
    "temp.in_works)"
    " AND key NOT IN (SELECT key FROM temp.tax_report WHERE what = 'works');"
    "INSERT INTO works (key, title, authors, year, venue, arxiv, verified_by, note)"
    " SELECT key, title, authors, year, venue, arxiv, verified_by, note FROM temp.in_works"
    " WHERE true ON CONFLICT (key) DO UPDATE SET title = excluded.title,"
    " authors = excluded.authors, year = excluded.year, venue = excluded.venue,"
    " arxiv = excluded.arxiv, verified_by = excluded.verified_by, note = excluded.note"
    " WHERE works.origin = 'km';"
    "INSERT INTO temp.tax_report SELECT 'works', 'gone', 1, key, json_quote(title), NULL FROM works"
    " WHERE origin = 'km' AND key NOT IN (SELECT key FROM temp.in_works)"
    " AND key IN (SELECT work FROM edges WHERE origin = 'user');"
    "UPDATE works SET origin = 'user' WHERE key IN"
    " (SELECT key FROM temp.tax_report WHERE what = 'works' AND outcome = 'gone');"
    "DELETE FROM works WHERE origin = 'km' AND key NOT IN (SELECT key FROM temp.in_works)";

static const char renew_edges[] =
    "UPDATE edges SET origin = 'km' FROM temp.in_edges AS t WHERE edges.work = t.work"
    " AND edges.node = t.node AND edges.relation = t.relation"
    " AND (edges.evidence, edges.note) IS (t.evidence, t.note);"
    "INSERT INTO edges (work, node, relation, evidence, note)"
    " SELECT work, node, relation, evidence, note FROM temp.in_edges WHERE true"
    " ON CONFLICT DO NOTHING";

/* A measure of the user's whose id km ships now gets km's nodes beside its own. */
static const char renew_measures[] =
    "INSERT INTO measures (id, module, status, title)"
    " SELECT id, module, status, title FROM temp.in_measures WHERE id NOT IN"
    " (SELECT key FROM temp.tax_report WHERE what = 'measures')"
    " ON CONFLICT (id) DO UPDATE SET module = excluded.module, status = excluded.status,"
    " title = excluded.title;"
    "INSERT INTO measure_nodes (measure, node) SELECT measure, node FROM temp.in_measure_nodes"
    " WHERE true ON CONFLICT (measure, node) DO UPDATE SET origin = 'km'";

static km_status insert_place(km_kb *kb, sqlite3_stmt *stmt, const char *work, const json_t *nodes,
                              km_error *err) {
    size_t i;
    const json_t *node;
    if (!json_is_array(nodes)) {
        return KM_SET(err, KM_EFORMAT, "'%.80s': an array of nodes is missing", work);
    }
    json_array_foreach(nodes, i, node) {
        const char *id = json_string_value(node);
        if (id == NULL) {
            return KM_SET(err, KM_EFORMAT, "'%.80s': node %zu must be a text", work, i);
        }
        KM_TRY(km__kb_bind_text(kb, stmt, 1, work, -1, err));
        KM_TRY(km__kb_bind_text(kb, stmt, 2, id, -1, err));
        KM_TRY(km__kb_bind_int(kb, stmt, 3, (int64_t)i, err));
        km_status status = km__kb_run(kb, stmt, err);
        if (status != KM_OK) {
            km_error_prefix(err, "'%.80s', node '%.80s'", work, id);
            return status;
        }
    }
    return KM_OK;
}

static km_status load_seed_places(km_kb *kb, json_t *places, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    const char *work;
    json_t *nodes;
    KM_GO(km__kb_prepare(
        &stmt, kb, "INSERT INTO seed_places (work, node, position) VALUES (?1, ?2, ?3)", err));
    json_object_foreach(places, work, nodes) {
        KM_GO(insert_place(kb, stmt, work, nodes, err));
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

/* ---- the whole ---- */

static km_status set_meta(km_kb *kb, const char *key, const char *value, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    KM_GO(
        km__kb_prepare(&stmt, kb, "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", err));
    KM_GO(km__kb_bind_text(kb, stmt, 1, key, -1, err));
    KM_GO(km__kb_bind_text(kb, stmt, 2, value, -1, err));
    KM_GO(km__kb_run(kb, stmt, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

static km_status note_taxonomy(km_kb *kb, const json_t *root, const char *digest, km_error *err) {
    char *version = sqlite3_mprintf("%lld", json_integer_value(json_object_get(root, "version")));
    if (version == NULL) {
        return KM_SET(err, KM_ENOMEM, "no memory for the taxonomy");
    }
    km_status status = set_meta(kb, "taxonomy_version", version, err);
    sqlite3_free(version);
    KM_TRY(status);
    const char *about = json_string_value(json_object_get(root, "about"));
    KM_TRY(set_meta(kb, "taxonomy_about", about == NULL ? "" : about, err));
    return set_meta(kb, "taxonomy_sha256", digest, err);
}

static km_status load_all(km_kb *kb, json_t *root, const char *digest, km_error *err) {
    KM_TRY(check_order(json_object_get(root, "nodes"), err));
    KM_TRY(km__kb_stage_taxonomy(kb, root, false, err));
    KM_TRY(load_nodes(kb, err));
    KM_TRY(km__kb_list_differences(kb, "works", true, err));
    KM_TRY(km__kb_exec(kb, renew_works, err));
    KM_TRY(km__kb_check_ends(kb, err));
    KM_TRY(km__kb_list_differences(kb, "edges", true, err));
    KM_TRY(km__kb_exec(kb, renew_edges, err));
    KM_TRY(load_seed_places(kb, json_object_get(root, "seed_places"), err));
    KM_TRY(km__kb_list_differences(kb, "measures", true, err));
    KM_TRY(km__kb_exec(kb, renew_measures, err));
    KM_TRY(km__kb_exec(kb, "DELETE FROM taxonomy_conflicts WHERE source = 'km'", err));
    KM_TRY(km__kb_finish_taxonomy(kb, "km", err));
    return note_taxonomy(kb, root, digest, err);
}

km_status km_kb_load_taxonomy(km_kb *kb, const char *json, size_t n, km_error *err) {
    km_status status = KM_OK;
    json_t *root = NULL;
    unsigned char digest[32];
    char hex[65];
    km_sha256 sha;
    int64_t one = 0;
    bool same = false;
    km_sha256_init(&sha);
    km_sha256_update(&sha, json, n);
    km_sha256_final(&sha, digest);
    km_sha256_hex(hex, digest);
    KM_TRY(km__kb_writable(kb, err));
    KM_TRY(km__kb_scalar(&one, &same, kb,
                         "SELECT 1 FROM meta WHERE key = 'taxonomy_sha256' AND value = ?1", hex,
                         NULL, err));
    if (same) {
        return KM_OK;
    }
    KM_TRY(km__kb_begin_with(&root, kb, "taxonomy", json, n, false, err));
    status = load_all(kb, root, hex, err);
    if (status != KM_OK) {
        km_error_prefix(err, "taxonomy");
    }
    json_decref(root);
    status = km__kb_end(kb, status, err);
    km__kb_unstage_taxonomy(kb);
    return status;
}
