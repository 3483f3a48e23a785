/* run.c: measures, runs and the evidence that runs give.
 *
 * Evidence may be filed only under nodes that its measure was declared to bear on, so that no
 * figure ends up beside a hypothesis it says nothing about. A run is "running" until it is ended;
 * one that was killed stays so, and its chunks are found all the same.
 */

#include <string.h>

#include "kb_private.h"

#define N_FIELDS(fields) ((int)(sizeof(fields) / sizeof((fields)[0])))

static const km__kb_field measure_fields[] = {
    {"id", KM__KB_TEXT, true},
    {"module", KM__KB_TEXT, true},
    {"title", KM__KB_TEXT, false},
};
static const km__kb_field run_fields[] = {
    {"measure", KM__KB_TEXT, true},      {"version", KM__KB_INT, true},
    {"parameters", KM__KB_OBJECT, true}, {"model", KM__KB_INT, false},
    {"seed", KM__KB_INT, false},         {"key", KM__KB_TEXT, false},
    {"started", KM__KB_TEXT, false},     {"km_version", KM__KB_TEXT, false},
    {"cpu", KM__KB_TEXT, false},         {"blas_core", KM__KB_TEXT, false},
    {"command", KM__KB_TEXT, false},     {"note", KM__KB_TEXT, false},
};
static const km__kb_field evidence_fields[] = {
    {"node", KM__KB_TEXT, true},        {"measure", KM__KB_TEXT, true},
    {"statistic", KM__KB_TEXT, true},   {"value", KM__KB_REAL, false},
    {"low", KM__KB_REAL, false},        {"high", KM__KB_REAL, false},
    {"n", KM__KB_INT, false},           {"unit", KM__KB_TEXT, false},
    {"baseline", KM__KB_SCALAR, false}, {"note", KM__KB_TEXT, false},
};

static km_status insert_one(km_kb *kb, const char *sql, const km__kb_field *fields, int n_fields,
                            json_t *object, const char *what, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    KM_GO(km__kb_prepare(&stmt, kb, sql, err));
    KM_GO(km__kb_bind_record(kb, stmt, fields, n_fields, object, what, -1, err));
    KM_GO(km__kb_run(kb, stmt, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

static km_status link_nodes(km_kb *kb, const char *measure, const json_t *nodes, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    size_t i;
    json_t *node;
    int64_t one = 0;
    bool found = false;
    KM_GO(km__kb_prepare(&stmt, kb,
                         "INSERT OR IGNORE INTO measure_nodes (measure, node, origin)"
                         " VALUES (?1, ?2, 'user')",
                         err));
    json_array_foreach(nodes, i, node) {
        const char *id = json_string_value(node);
        if (id == NULL) {
            KM_FAIL(err, KM_EINVAL, "measure '%s': nodes[%zu] must be a text", measure, i);
        }
        KM_GO(km__kb_scalar(&one, &found, kb, "SELECT 1 FROM nodes WHERE id = ?1", id, NULL, err));
        if (!found) {
            KM_FAIL(err, KM_EINVAL, "measure '%s': the taxonomy has no node '%s'", measure, id);
        }
        KM_GO(km__kb_bind_text(kb, stmt, 1, measure, -1, err));
        KM_GO(km__kb_bind_text(kb, stmt, 2, id, -1, err));
        KM_GO(km__kb_run(kb, stmt, err));
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

km_status km_kb_put_measure(km_kb *kb, const char *json, size_t n, km_error *err) {
    km_status status = KM_OK;
    json_t *object = NULL;
    json_t *nodes = NULL;
    KM_TRY(km__kb_begin_with(&object, kb, "measure", json, n, false, err));
    nodes = json_incref(json_object_get(object, "nodes"));
    (void)json_object_del(object, "nodes");
    if (!json_is_array(nodes)) {
        KM_FAIL(err, KM_EINVAL, "measure: 'nodes' must be an array of node ids");
    }
    KM_GO(insert_one(kb,
                     "INSERT INTO measures (id, module, title, status)"
                     " VALUES (?1, ?2, ?3, 'user') ON CONFLICT (id) DO NOTHING",
                     measure_fields, N_FIELDS(measure_fields), object, "measure", err));
    KM_GO(link_nodes(kb, json_string_value(json_object_get(object, "id")), nodes, err));
done:
    json_decref(nodes);
    json_decref(object);
    return km__kb_end(kb, status, err);
}

static const char insert_run[] =
    "INSERT INTO runs (measure, version, parameters, model, seed, key, started, km_version, cpu,"
    " blas_core, command, note, status)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6,"
    " coalesce(?7, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), ?8, ?9, ?10, ?11, ?12, 'running')";

/* A measure that nobody declared may run; its evidence may not be filed anywhere. */
km_status km_kb_begin_run(int64_t *out, km_kb *kb, const char *json, size_t n, km_error *err) {
    km_status status = KM_OK;
    json_t *object = NULL;
    int64_t one = 0;
    bool found = false;
    KM_TRY(km__kb_begin_with(&object, kb, "run", json, n, false, err));
    const char *measure = json_string_value(json_object_get(object, "measure"));
    if (measure != NULL) {
        KM_GO(km__kb_scalar(&one, &found, kb,
                            "INSERT INTO measures (id, module, status)"
                            " VALUES (?1, ?1, 'user') ON CONFLICT (id) DO NOTHING RETURNING 1",
                            measure, NULL, err));
    }
    KM_GO(insert_one(kb, insert_run, run_fields, N_FIELDS(run_fields), object, "run", err));
    *out = sqlite3_last_insert_rowid(kb->db);
done:
    json_decref(object);
    return km__kb_end(kb, status, err);
}

/* Why an UPDATE of a running run changed nothing. */
static km_status explain_no_run(km_kb *kb, int64_t run, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    KM_GO(km__kb_prepare(&stmt, kb, "SELECT status FROM runs WHERE id = ?1", err));
    KM_GO(km__kb_bind_int(kb, stmt, 1, run, err));
    KM_GO(km__kb_step(&row, kb, stmt, err));
    if (!row) {
        KM_FAIL(err, KM_ENOTFOUND, "there is no run %lld", (long long)run);
    }
    KM_FAIL(err, KM_ESTATE, "run %lld has ended already (%s)", (long long)run,
            (const char *)sqlite3_column_text(stmt, 0));
done:
    sqlite3_finalize(stmt);
    return status;
}

km_status km_kb_finish_run(km_kb *kb, int64_t run, const char *outcome, const char *key,
                           km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    if (strcmp(outcome, "done") != 0 && strcmp(outcome, "cancelled") != 0 &&
        strcmp(outcome, "failed") != 0) {
        return KM_SET(err, KM_EINVAL, "a run ends as done, cancelled or failed, not '%s'", outcome);
    }
    KM_TRY(km_kb_begin(kb, err));
    KM_GO(km__kb_prepare(&stmt, kb,
                         "UPDATE runs SET status = ?2, key = coalesce(?3, key),"
                         " finished = coalesce(finished, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"
                         " WHERE id = ?1 AND (status = 'running'"
                         " OR (status = ?2 AND key IS NULL AND ?3 IS NOT NULL))",
                         err));
    KM_GO(km__kb_bind_int(kb, stmt, 1, run, err));
    KM_GO(km__kb_bind_text(kb, stmt, 2, outcome, -1, err));
    KM_GO(km__kb_bind_text(kb, stmt, 3, key, -1, err));
    KM_GO(km__kb_run(kb, stmt, err));
    if (sqlite3_changes(kb->db) == 0) {
        KM_GO(explain_no_run(kb, run, err));
    }
done:
    sqlite3_finalize(stmt);
    return km__kb_end(kb, status, err);
}

km_status km_kb_find_run(int64_t *out, km_kb *kb, const char *key, km_error *err) {
    bool found = false;
    KM_TRY(km__kb_ready(kb, err));
    KM_TRY(km__kb_scalar(out, &found, kb, "SELECT id FROM runs WHERE key = ?1", key, NULL, err));
    *out = found ? *out : -1;
    return KM_OK;
}

static const char insert_evidence[] = "INSERT INTO evidence (node, measure, statistic, value, low, "
                                      "high, n, unit, baseline, note, run)"
                                      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
                                      " ON CONFLICT (run, node, measure, statistic) DO NOTHING";

static km_status check_bearing(km_kb *kb, const json_t *object, km_error *err) {
    const char *measure = json_string_value(json_object_get(object, "measure"));
    const char *node = json_string_value(json_object_get(object, "node"));
    int64_t one = 0;
    bool found = false;
    KM_TRY(km__kb_scalar(&one, &found, kb,
                         "SELECT 1 FROM measure_nodes WHERE measure = ?1 AND node = ?2", measure,
                         node, err));
    if (!found) {
        return KM_SET(err, KM_EINVAL,
                      "the measure '%s' is not declared to bear on the node '%s' (see the tables "
                      "measures and measure_nodes)",
                      measure, node);
    }
    return KM_OK;
}

km_status km_kb_put_evidence(km_kb *kb, int64_t run, const char *json, size_t n, km_error *err) {
    km_status status = KM_OK;
    json_t *array = NULL;
    sqlite3_stmt *stmt = NULL;
    size_t i;
    json_t *object;
    KM_TRY(km__kb_begin_with(&array, kb, "evidence", json, n, true, err));
    KM_GO(km__kb_prepare(&stmt, kb, insert_evidence, err));
    json_array_foreach(array, i, object) {
        KM_GO(km__kb_bind_record(kb, stmt, evidence_fields, N_FIELDS(evidence_fields), object,
                                 "evidence", (int64_t)i, err));
        KM_GO(check_bearing(kb, object, err));
        KM_GO(km__kb_bind_int(kb, stmt, N_FIELDS(evidence_fields) + 1, run, err));
        KM_GO(km__kb_run(kb, stmt, err));
    }
done:
    sqlite3_finalize(stmt);
    json_decref(array);
    return km__kb_end(kb, status, err);
}
