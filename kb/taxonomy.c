/* taxonomy.c: load the taxonomy: nodes, works, edges, seed places, measures.
 *
 * The tree is stored with Euler-tour numbers, so "everything below X" is a range. Parents precede
 * their children in the file, which makes cycles impossible and one pass enough. */

#include <string.h>

#include "base/json.h"
#include "kb_private.h"

#define N_FIELDS(fields) ((int)(sizeof(fields) / sizeof((fields)[0])))

static const km__kb_field node_fields[] = {
    {"id", KM__KB_TEXT, true},
    {"parent", KM__KB_TEXT, false},
    {"name", KM__KB_TEXT, true},
    {"kind", KM__KB_TEXT, true},
    {"summary", KM__KB_TEXT, true},
    {"evidence", KM__KB_TEXT, true},
    {"survey_section", KM__KB_TEXT, false},
};
static const km__kb_field work_fields[] = {
    {"key", KM__KB_TEXT, true},         {"title", KM__KB_TEXT, true},
    {"authors", KM__KB_TEXT, true},     {"year", KM__KB_INT, false},
    {"venue", KM__KB_TEXT, false},      {"arxiv", KM__KB_TEXT, false},
    {"verified_by", KM__KB_TEXT, true}, {"note", KM__KB_TEXT, false},
};
static const km__kb_field edge_fields[] = {
    {"work", KM__KB_TEXT, true},     {"node", KM__KB_TEXT, true},  {"relation", KM__KB_TEXT, true},
    {"evidence", KM__KB_TEXT, true}, {"note", KM__KB_TEXT, false},
};

static const char insert_node[] =
    "INSERT INTO nodes (id, parent, name, kind, summary, evidence, survey_section, depth,"
    " tree_enter, tree_leave) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
    " ON CONFLICT (id) DO UPDATE SET parent = ?2, name = ?3, kind = ?4, summary = ?5,"
    " evidence = ?6, survey_section = ?7, depth = ?8, tree_enter = ?9, tree_leave = ?10";

/* Nodes of an earlier taxonomy get negative numbers; those still negative afterwards are gone. */
static const char forget_old[] =
    "UPDATE nodes SET tree_enter = -1 - tree_enter;"
    "DELETE FROM edges; DELETE FROM seed_places; DELETE FROM works;"
    "DELETE FROM measure_nodes WHERE measure IN (SELECT id FROM measures WHERE status <> 'user')"
    " AND NOT EXISTS (SELECT 1 FROM evidence AS e WHERE e.measure = measure_nodes.measure"
    "                 AND e.node = measure_nodes.node)";
static const char count_orphans[] =
    "SELECT count(*) FROM nodes WHERE tree_enter < 0 AND id IN"
    " (SELECT node FROM measure_nodes UNION ALL SELECT node FROM prediction_nodes)";

typedef struct place {
    int64_t parent; /* -1: root */
    int64_t depth, size, enter, next;
} place;

/* Check ids and parents, and number the tree. */
static km_status number_tree(place *places, const json_t *nodes, km_error *err) {
    km_status status = KM_OK;
    json_t *index = json_object();
    int64_t n = (int64_t)json_array_size(nodes);
    if (index == NULL) {
        KM_FAIL(err, KM_ENOMEM, "no memory for the taxonomy");
    }
    for (int64_t i = 0; i < n; i++) {
        const json_t *node = json_array_get(nodes, (size_t)i);
        const char *id = json_string_value(json_object_get(node, "id"));
        const char *parent = json_string_value(json_object_get(node, "parent"));
        const json_t *found = parent == NULL ? NULL : json_object_get(index, parent);
        if (id == NULL || json_object_get(index, id) != NULL) {
            KM_FAIL(err, KM_EFORMAT, "nodes[%lld]: %s", (long long)i,
                    id == NULL ? "'id' is missing" : "its id was there before");
        }
        if ((parent == NULL) != (i == 0) || (parent != NULL && found == NULL)) {
            KM_FAIL(err, KM_EFORMAT,
                    "node '%.80s': the first node is the only root, and parents precede children",
                    id);
        }
        places[i].parent = found == NULL ? -1 : json_integer_value(found);
        places[i].size = 1;
        if (json_object_set_new(index, id, json_integer(i)) != 0) {
            KM_FAIL(err, KM_ENOMEM, "no memory for the taxonomy");
        }
    }
    for (int64_t i = n - 1; i > 0; i--) {
        places[places[i].parent].size += places[i].size;
    }
    for (int64_t i = 0; i < n; i++) {
        place *above = places[i].parent < 0 ? NULL : &places[places[i].parent];
        places[i].enter = above == NULL ? 0 : above->next;
        places[i].depth = above == NULL ? 0 : above->depth + 1;
        places[i].next = places[i].enter + 1;
        if (above != NULL) {
            above->next += places[i].size;
        }
    }
done:
    json_decref(index);
    return status;
}

static km_status insert_nodes(km_kb *kb, json_t *nodes, const place *places, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    size_t i;
    json_t *node;
    KM_GO(km__kb_prepare(&stmt, kb, insert_node, err));
    json_array_foreach(nodes, i, node) {
        KM_GO(km__kb_bind_record(kb, stmt, node_fields, N_FIELDS(node_fields), node, "nodes",
                                 (int64_t)i, err));
        KM_GO(km__kb_bind_int(kb, stmt, 8, places[i].depth, err));
        KM_GO(km__kb_bind_int(kb, stmt, 9, places[i].enter, err));
        KM_GO(km__kb_bind_int(kb, stmt, 10, places[i].enter + places[i].size - 1, err));
        KM_GO(km__kb_run(kb, stmt, err));
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

static km_status load_nodes(km_kb *kb, json_t *nodes, km_error *err) {
    km_status status = KM_OK;
    void *places = NULL;
    int64_t n_orphans = 0;
    bool found = false;
    if (json_array_size(nodes) == 0) {
        return KM_SET(err, KM_EFORMAT, "'nodes' must be an array that is not empty");
    }
    KM_GO(km_alloc_array(&places, kb->ctx, (int64_t)json_array_size(nodes), sizeof(place), err));
    KM_GO(number_tree(places, nodes, err));
    KM_GO(insert_nodes(kb, nodes, places, err));
    KM_GO(km__kb_scalar(&n_orphans, &found, kb, count_orphans, NULL, NULL, err));
    if (n_orphans > 0) {
        KM_FAIL(err, KM_EINVAL,
                "recorded evidence or predictions point to %lld nodes it does not have",
                (long long)n_orphans);
    }
    KM_GO(km__kb_exec(kb, "DELETE FROM nodes WHERE tree_enter < 0", err));
done:
    km_free(kb->ctx, places);
    return status;
}

/* Insert (work, node, position) or (measure, node) for each node of an array. */
static km_status insert_links(km_kb *kb, const char *sql, const char *owner, const json_t *nodes,
                              bool numbered, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    size_t i;
    json_t *node;
    if (!json_is_array(nodes)) {
        return KM_SET(err, KM_EFORMAT, "'%.80s': an array of nodes is missing", owner);
    }
    KM_GO(km__kb_prepare(&stmt, kb, sql, err));
    json_array_foreach(nodes, i, node) {
        const char *id = json_string_value(node);
        if (id == NULL) {
            KM_FAIL(err, KM_EFORMAT, "'%.80s': node %zu must be a text", owner, i);
        }
        KM_GO(km__kb_bind_text(kb, stmt, 1, owner, -1, err));
        KM_GO(km__kb_bind_text(kb, stmt, 2, id, -1, err));
        if (numbered) {
            KM_GO(km__kb_bind_int(kb, stmt, 3, (int64_t)i, err));
        }
        status = km__kb_run(kb, stmt, err);
        if (status != KM_OK) {
            km_error_prefix(err, "'%.80s', node '%.80s'", owner, id);
            goto done;
        }
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

static km_status load_seed_places(km_kb *kb, json_t *places, km_error *err) {
    const char *work;
    json_t *nodes;
    json_object_foreach(places, work, nodes) {
        KM_TRY(insert_links(kb,
                            "INSERT INTO seed_places (work, node, position) VALUES (?1, ?2, ?3)",
                            work, nodes, true, err));
    }
    return KM_OK;
}

static km_status load_measures(km_kb *kb, json_t *measures, km_error *err) {
    static const km__kb_field fields[] =
        {
            {"id", KM__KB_TEXT, true},     {"module", KM__KB_TEXT, true},
            {"status", KM__KB_TEXT, true}, {"title", KM__KB_TEXT, false},
            {"nodes", KM__KB_ARRAY, true}, /* bound to ?5, which nothing uses: its rows follow */
    };
    size_t i;
    json_t *measure;
    int64_t n_new = 0;
    KM_TRY(km__kb_insert_records(
        &n_new, kb,
        "INSERT INTO measures (id, module, status, title) SELECT ?1, ?2, ?3, ?4 WHERE ?5 IS NOT "
        "NULL"
        " ON CONFLICT (id) DO UPDATE SET module = ?2, status = ?3, title = ?4",
        fields, N_FIELDS(fields), measures, "measurements", err));
    json_array_foreach(measures, i, measure) {
        KM_TRY(insert_links(kb,
                            "INSERT OR IGNORE INTO measure_nodes (measure, node) VALUES (?1, ?2)",
                            json_string_value(json_object_get(measure, "id")),
                            json_object_get(measure, "nodes"), false, err));
    }
    return KM_OK;
}

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
    int64_t n_new = 0;
    json_t *works = json_object_get(root, "works"), *edges = json_object_get(root, "edges");
    json_t *measures = json_object_get(root, "measurements");
    if (!json_is_array(works) || !json_is_array(edges) || !json_is_array(measures)) {
        return KM_SET(err, KM_EFORMAT, "'works', 'edges' and 'measurements' must be arrays");
    }
    KM_TRY(km__kb_exec(kb, forget_old, err));
    KM_TRY(load_nodes(kb, json_object_get(root, "nodes"), err));
    KM_TRY(km__kb_insert_records(&n_new, kb,
                                 "INSERT INTO works (key, title, authors, year, venue, arxiv,"
                                 " verified_by, note) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                                 work_fields, N_FIELDS(work_fields), works, "works", err));
    KM_TRY(km__kb_insert_records(&n_new, kb,
                                 "INSERT INTO edges (work, node, relation, evidence, note)"
                                 " VALUES (?1, ?2, ?3, ?4, ?5)",
                                 edge_fields, N_FIELDS(edge_fields), edges, "edges", err));
    KM_TRY(load_seed_places(kb, json_object_get(root, "seed_places"), err));
    KM_TRY(load_measures(kb, measures, err));
    KM_TRY(km__kb_unindex(kb, "node", err));
    KM_TRY(km__kb_unindex(kb, "work", err));
    KM_TRY(km__kb_index(kb, "node", err));
    KM_TRY(km__kb_index(kb, "work", err));
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
    return km__kb_end(kb, status, err);
}
