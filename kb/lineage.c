/* lineage.c: which model came from which.
 *
 * A model cannot come from itself, however long the way round: an edge that would close a circle is
 * refused. Questions stay bounded on files where another program wrote one (they count generations
 * and end, or join each pair of models once).
 */

#include "kb_private.h"

static const km__kb_field lineage_fields[] = {
    {"child", KM__KB_TEXT, true}, {"parent", KM__KB_TEXT, true}, {"kind", KM__KB_TEXT, true},
    {"run", KM__KB_INT, false},   {"step", KM__KB_INT, false},   {"recipe", KM__KB_OBJECT, false},
};

static const char insert_lineage[] =
    "INSERT INTO lineage (child, parent, kind, run, step, recipe, recorded)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"
    " ON CONFLICT (child, parent, kind) DO NOTHING";

/* Whether ?1 is among the ancestors of ?2. UNION visits each model once, whatever the circles. */
static const char is_ancestor[] =
    "WITH RECURSIVE up (model) AS (SELECT ?2 UNION"
    " SELECT l.parent FROM up JOIN lineage AS l ON l.child = up.model)"
    " SELECT 1 FROM up WHERE model = ?1";

static km_status check_run(km_kb *kb, const json_t *run, size_t i, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    if (!json_is_integer(run)) {
        return KM_OK; /* none, or refused when it is bound */
    }
    KM_GO(km__kb_prepare(&stmt, kb, "SELECT 1 FROM runs WHERE id = ?1", err));
    KM_GO(km__kb_bind_int(kb, stmt, 1, json_integer_value(run), err));
    KM_GO(km__kb_step(&row, kb, stmt, err));
    if (!row) {
        KM_FAIL(err, KM_ENOTFOUND, "lineage[%zu]: there is no run %lld", i,
                (long long)json_integer_value(run));
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

/* The schema refuses the same mistakes; this says which it is. */
static km_status check_edge(km_kb *kb, const json_t *object, size_t i, km_error *err) {
    static const char *const ends[] = {"child", "parent"};
    int64_t one = 0;
    bool found = false;
    const char *names[2];
    for (int k = 0; k < 2; k++) {
        names[k] = json_string_value(json_object_get(object, ends[k]));
        if (names[k] == NULL) {
            return KM_SET(err, KM_EINVAL, "lineage[%zu]: '%s' must be a fingerprint", i, ends[k]);
        }
        KM_TRY(km__kb_scalar(&one, &found, kb, "SELECT 1 FROM models WHERE fingerprint = ?1",
                             names[k], NULL, err));
        if (!found) {
            return KM_SET(err, KM_ENOTFOUND,
                          "lineage[%zu]: the %s %.80s is not recorded: record the model first", i,
                          ends[k], names[k]);
        }
    }
    KM_TRY(km__kb_scalar(&one, &found, kb, is_ancestor, names[0], names[1], err));
    if (found) {
        return KM_SET(err, KM_EINVAL,
                      "lineage[%zu]: %.80s cannot come from %.80s, which comes from it", i,
                      names[0], names[1]);
    }
    return check_run(kb, json_object_get(object, "run"), i, err);
}

static km_status insert_edge(km_kb *kb, sqlite3_stmt *stmt, json_t *object, size_t i,
                             km_error *err) {
    const int n = (int)(sizeof lineage_fields / sizeof lineage_fields[0]);
    KM_TRY(check_edge(kb, object, i, err));
    KM_TRY(km__kb_bind_record(kb, stmt, lineage_fields, n, object, "lineage", (int64_t)i, err));
    km_status status = km__kb_run(kb, stmt, err);
    if (status != KM_OK) {
        km_error_prefix(err, "lineage[%zu]", i);
    }
    return status;
}

km_status km_kb_put_lineage(int64_t *out, km_kb *kb, const char *json, size_t n, km_error *err) {
    km_status status = KM_OK;
    json_t *array = NULL;
    sqlite3_stmt *stmt = NULL;
    int64_t n_new = 0;
    size_t i;
    json_t *object;
    KM_TRY(km__kb_begin_with(&array, kb, "lineage", json, n, true, err));
    KM_GO(km__kb_prepare(&stmt, kb, insert_lineage, err));
    json_array_foreach(array, i, object) {
        KM_GO(insert_edge(kb, stmt, object, i, err));
        n_new += sqlite3_changes(kb->db);
    }
done:
    sqlite3_finalize(stmt);
    json_decref(array);
    status = km__kb_end(kb, status, err);
    if (out != NULL) {
        *out = status == KM_OK ? n_new : 0;
    }
    return status;
}
