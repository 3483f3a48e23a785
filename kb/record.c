/* record.c: JSON objects as rows: models, facts, texts, measures, runs, evidence.
 *
 * A table of fields says which members an object may and must have; what is not in it is refused by
 * name, so a misspelt member cannot vanish. */

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "kb_private.h"

/* "facts[3]" or "model" for messages. */
static void name_record(char out[96], const char *what, int64_t index) {
    if (index < 0) {
        snprintf(out, 96, "%s", what);
    } else {
        snprintf(out, 96, "%s[%lld]", what, (long long)index);
    }
}

km_status km__kb_parse(json_t **out, const char *what, const char *json, size_t n, bool array,
                       km_error *err) {
    km_status status = KM_OK;
    json_t *root = NULL;
    *out = NULL;
    KM_GO(km_json_parse(&root, json, n, err));
    if (array ? !json_is_array(root) : !json_is_object(root)) {
        KM_FAIL(err, KM_EINVAL, "must be a JSON %s", array ? "array" : "object");
    }
    size_t i;
    json_t *item;
    json_array_foreach(root, i, item) {
        if (!json_is_object(item)) {
            KM_FAIL(err, KM_EINVAL, "item %zu must be a JSON object", i);
        }
    }
    *out = root;
    root = NULL;
done:
    if (status != KM_OK) {
        km_error_prefix(err, "%s", what);
    }
    json_decref(root);
    return status;
}

km_status km__kb_begin_with(json_t **out, km_kb *kb, const char *what, const char *json, size_t n,
                            bool array, km_error *err) {
    KM_TRY(km__kb_parse(out, what, json, n, array, err));
    km_status status = km_kb_begin(kb, err);
    if (status != KM_OK) {
        json_decref(*out);
        *out = NULL;
    }
    return status;
}

static km_status bind_json(km_kb *kb, sqlite3_stmt *stmt, int index, const json_t *value,
                           km_error *err) {
    const size_t flags = JSON_SORT_KEYS | JSON_COMPACT;
    void *text = NULL;
    size_t n = json_dumpb(value, NULL, 0, flags);
    KM_TRY(km_alloc(&text, kb->ctx, n + 1, err));
    (void)json_dumpb(value, text, n, flags);
    km_status status = km__kb_bind_text(kb, stmt, index, text, (int64_t)n, err);
    km_free(kb->ctx, text);
    return status;
}

static bool fits(const json_t *value, km__kb_kind kind) {
    switch (kind) {
    case KM__KB_TEXT:
        return json_is_string(value);
    case KM__KB_INT:
        return json_is_integer(value);
    case KM__KB_REAL:
        return json_is_number(value);
    case KM__KB_OBJECT:
        return json_is_object(value);
    case KM__KB_ARRAY:
        return json_is_array(value);
    case KM__KB_SCALAR:
        return json_is_number(value) || json_is_string(value);
    }
    return false;
}

static const char *kind_name(km__kb_kind kind) {
    static const char *const names[] = {"a text",    "an integer", "a number",
                                        "an object", "an array",   "a number or a text"};
    return names[kind];
}

/* A value whose type was checked. */
static km_status bind_value(km_kb *kb, sqlite3_stmt *stmt, int index, const json_t *value,
                            km__kb_kind kind, km_error *err) {
    if (json_is_string(value)) {
        return km__kb_bind_text(kb, stmt, index, json_string_value(value),
                                (int64_t)json_string_length(value), err);
    }
    if (json_is_object(value) || json_is_array(value)) {
        return bind_json(kb, stmt, index, value, err);
    }
    if (json_is_integer(value) && kind != KM__KB_REAL) {
        return km__kb_bind_int(kb, stmt, index, json_integer_value(value), err);
    }
    int rc = sqlite3_bind_double(stmt, index, json_number_value(value));
    return rc == SQLITE_OK ? KM_OK : km__kb_error(kb, rc, "binding a number", err);
}

static km_status refuse_unknown(const km__kb_field *fields, int n_fields, json_t *object,
                                const char *name, km_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        bool known = false;
        for (int i = 0; i < n_fields; i++) {
            known = known || strcmp(key, fields[i].name) == 0;
        }
        if (!known) {
            return KM_SET(err, KM_EINVAL, "%s: unknown member '%.60s'", name, key);
        }
    }
    return KM_OK;
}

km_status km__kb_bind_record(km_kb *kb, sqlite3_stmt *stmt, const km__kb_field *fields,
                             int n_fields, json_t *object, const char *what, int64_t index,
                             km_error *err) {
    char name[96];
    name_record(name, what, index);
    KM_TRY(refuse_unknown(fields, n_fields, object, name, err));
    for (int i = 0; i < n_fields; i++) {
        const json_t *value = json_object_get(object, fields[i].name);
        if (value == NULL || json_is_null(value)) {
            if (fields[i].required) {
                return KM_SET(err, KM_EINVAL, "%s: '%s' is missing", name, fields[i].name);
            }
            KM_TRY(km__kb_bind_text(kb, stmt, i + 1, NULL, 0, err));
            continue;
        }
        if (!fits(value, fields[i].kind)) {
            return KM_SET(err, KM_EINVAL, "%s: '%s' must be %s", name, fields[i].name,
                          kind_name(fields[i].kind));
        }
        KM_TRY(bind_value(kb, stmt, i + 1, value, fields[i].kind, err));
    }
    return KM_OK;
}

km_status km__kb_insert_records(int64_t *n_new, km_kb *kb, const char *sql,
                                const km__kb_field *fields, int n_fields, json_t *array,
                                const char *what, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    size_t i;
    json_t *object;
    *n_new = 0;
    KM_GO(km__kb_prepare(&stmt, kb, sql, err));
    json_array_foreach(array, i, object) {
        KM_GO(km__kb_bind_record(kb, stmt, fields, n_fields, object, what, (int64_t)i, err));
        status = km__kb_run(kb, stmt, err);
        if (status != KM_OK) {
            km_error_prefix(err, "%s[%zu]", what, i);
            goto done;
        }
        *n_new += sqlite3_changes(kb->db);
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

/* ---- models ---- */

static const km__kb_field model_fields[] = {
    {"fingerprint", KM__KB_TEXT, true},   {"name", KM__KB_TEXT, true},
    {"architecture", KM__KB_TEXT, false}, {"precision", KM__KB_TEXT, false},
    {"path", KM__KB_TEXT, false},         {"tokenizer_hash", KM__KB_TEXT, false},
    {"n_parameters", KM__KB_INT, false},  {"config", KM__KB_OBJECT, false},
};
#define N_FIELDS(fields) ((int)(sizeof(fields) / sizeof((fields)[0])))

static const char insert_model[] =
    "INSERT INTO models (fingerprint, name, architecture, precision, path, tokenizer_hash,"
    " n_parameters, config, recorded)"
    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))"
    " ON CONFLICT (fingerprint) DO NOTHING";

km_status km_kb_put_model(int64_t *out, km_kb *kb, const char *json, size_t n, km_error *err) {
    km_status status = KM_OK;
    json_t *object = NULL;
    sqlite3_stmt *stmt = NULL;
    bool found = false;
    KM_TRY(km__kb_begin_with(&object, kb, "model", json, n, false, err));
    KM_GO(km__kb_prepare(&stmt, kb, insert_model, err));
    KM_GO(km__kb_bind_record(kb, stmt, model_fields, N_FIELDS(model_fields), object, "model", -1,
                             err));
    KM_GO(km__kb_run(kb, stmt, err));
    KM_GO(km__kb_scalar(out, &found, kb, "SELECT id FROM models WHERE fingerprint = ?1",
                        json_string_value(json_object_get(object, "fingerprint")), NULL, err));
done:
    sqlite3_finalize(stmt);
    json_decref(object);
    return km__kb_end(kb, status, err);
}

/* ---- facts and texts ---- */

static const km__kb_field fact_fields[] = {
    {"id", KM__KB_TEXT, true},      {"relation", KM__KB_TEXT, true},
    {"subject", KM__KB_TEXT, true}, {"answers", KM__KB_ARRAY, true},
    {"source", KM__KB_TEXT, false}, {"licence", KM__KB_TEXT, false},
};
static const km__kb_field text_fields[] = {
    {"id", KM__KB_TEXT, true},      {"title", KM__KB_TEXT, false},   {"body", KM__KB_TEXT, true},
    {"source", KM__KB_TEXT, false}, {"licence", KM__KB_TEXT, false},
};

/* Insert an array of records and index the new ones for search, in one transaction. */
static km_status put_searchable(int64_t *out, km_kb *kb, const char *kind, const char *sql,
                                const km__kb_field *fields, int n_fields, const char *what,
                                const char *json, size_t n, km_error *err) {
    km_status status = KM_OK;
    json_t *array = NULL;
    int64_t n_new = 0;
    KM_TRY(km__kb_begin_with(&array, kb, what, json, n, true, err));
    KM_GO(km__kb_insert_records(&n_new, kb, sql, fields, n_fields, array, what, err));
    if (n_new > 0) {
        KM_GO(km__kb_index(kb, kind, err));
    }
done:
    json_decref(array);
    status = km__kb_end(kb, status, err);
    if (out != NULL) {
        *out = status == KM_OK ? n_new : 0;
    }
    return status;
}

km_status km_kb_put_facts(int64_t *out, km_kb *kb, const char *json, size_t n, km_error *err) {
    return put_searchable(out, kb, "fact",
                          "INSERT INTO facts (id, relation, subject, answers, source, licence)"
                          " VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (id) DO NOTHING",
                          fact_fields, N_FIELDS(fact_fields), "facts", json, n, err);
}

km_status km_kb_put_texts(int64_t *out, km_kb *kb, const char *json, size_t n, km_error *err) {
    return put_searchable(out, kb, "text",
                          "INSERT INTO texts (id, title, body, source, licence)"
                          " VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (id) DO NOTHING",
                          text_fields, N_FIELDS(text_fields), "texts", json, n, err);
}
