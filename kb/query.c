/* query.c: SQL from the user, limited to reading, and its rows as a table.
 *
 * Three fences, each enough by itself for what it covers: the statement must be one that SQLite
 * calls read-only; an authorizer refuses everything but reading, functions and harmless pragmas
 * (ATTACH and most pragmas count as read-only for SQLite); a progress handler stops it in time or
 * on km_ctx_cancel. */

#include <stdio.h>
#include <string.h>

#include "base/ctx_private.h"
#include "base/json.h"
#include "kb_private.h"

enum { DEFAULT_TIMEOUT_MS = 60000, DEFAULT_MAX_ROWS = 1000000, PROGRESS_STEPS = 2000 };

static bool harmless_pragma(const char *name, const char *value) {
    static const char *const about_schema[] = {"table_info",      "table_xinfo", "table_list",
                                               "index_list",      "index_info",  "index_xinfo",
                                               "foreign_key_list"};
    static const char *const plain[] = {"user_version",   "application_id", "page_count",
                                        "page_size",      "journal_mode",   "encoding",
                                        "schema_version", "data_version",   "compile_options"};
    for (size_t i = 0; i < sizeof about_schema / sizeof about_schema[0]; i++) {
        if (sqlite3_stricmp(name, about_schema[i]) == 0) {
            return true;
        }
    }
    for (size_t i = 0; value == NULL && i < sizeof plain / sizeof plain[0]; i++) {
        if (sqlite3_stricmp(name, plain[i]) == 0) {
            return true;
        }
    }
    return false;
}

static int authorize(void *payload, int action, const char *a, const char *b, const char *database,
                     const char *trigger) {
    (void)payload;
    (void)database;
    (void)trigger;
    switch (action) {
    case SQLITE_SELECT:
    case SQLITE_READ:
    case SQLITE_RECURSIVE:
        return SQLITE_OK;
    case SQLITE_FUNCTION:
        return b != NULL && (sqlite3_stricmp(b, "load_extension") == 0 ||
                             sqlite3_stricmp(b, "fts3_tokenizer") == 0)
                   ? SQLITE_DENY
                   : SQLITE_OK;
    case SQLITE_PRAGMA:
        return a != NULL && harmless_pragma(a, b) ? SQLITE_OK : SQLITE_DENY;
    case SQLITE_UPDATE:
        /* SQLite asks this when a table-valued function (json_each) is first used. A true UPDATE
         * of the schema is refused as not read-only. */
        return a != NULL && strcmp(a, "sqlite_master") == 0 ? SQLITE_OK : SQLITE_DENY;
    default:
        return SQLITE_DENY;
    }
}

static int past_deadline(void *payload) {
    const km_kb *kb = payload;
    return km__now_ns() > kb->stop_ns || atomic_load(&kb->ctx->cancelled);
}

static void raise_fences(km_kb *kb, int timeout_ms) {
    int64_t ms = timeout_ms > 0 ? timeout_ms : DEFAULT_TIMEOUT_MS;
    kb->stop_ns = km__now_ns() + ms * 1000000;
    kb->user_sql = true;
    atomic_store(&kb->ctx->cancelled, false); /* meant for earlier work */
    (void)sqlite3_set_authorizer(kb->db, authorize, NULL);
    sqlite3_progress_handler(kb->db, PROGRESS_STEPS, past_deadline, kb);
}

static void lower_fences(km_kb *kb) {
    (void)sqlite3_set_authorizer(kb->db, NULL, NULL);
    sqlite3_progress_handler(kb->db, 0, NULL, NULL);
    kb->user_sql = false;
}

/* ---- rows to table ---- */

/* A column's type is known when its last row was read, so the rows are kept as they come and become
 * a table at the end. */
typedef struct cell {
    union {
        int64_t integer;
        double real;
        size_t text; /* where its length and then its bytes begin in `texts` */
    } value;
    km_column_type type;
    bool null;
} cell;

typedef struct column_state {
    km_column_type type;
    bool seen; /* a value that is not null */
    bool big;  /* an integer that a double cannot hold */
    char name[160];
} column_state;

typedef struct answer {
    km_kb *kb;
    sqlite3_stmt *stmt;
    int n_columns;
    int64_t n_rows;
    column_state *columns;
    km__kb_text cells; /* an array of cell, row after row */
    km__kb_text texts;
} answer;

/* What a column must be to hold a value; a number among texts makes the column text. */
static km_column_type wider(km_column_type a, km_column_type b) {
    if (a == b) {
        return a;
    }
    return a == KM_COLUMN_TEXT || b == KM_COLUMN_TEXT ? KM_COLUMN_TEXT : KM_COLUMN_DOUBLE;
}

static void see_cell(column_state *column, const cell *seen) {
    const int64_t exact = (int64_t)1 << 53;
    column->type = column->seen ? wider(column->type, seen->type) : seen->type;
    column->seen = true;
    if (seen->type == KM_COLUMN_INT64) {
        int64_t value = seen->value.integer;
        column->big = column->big || value > exact || value < -exact;
    }
}

static km_status add_text(answer *a, const char *text, size_t n, km_error *err) {
    KM_TRY(km__kb_text_add(&a->texts, (const char *)&n, sizeof n, err));
    return km__kb_text_add(&a->texts, text, n, err);
}

/* Blobs and texts that are not UTF-8 (SQLite does not check) become hexadecimal text. */
static km_status keep_bytes(answer *a, int column, km_error *err) {
    static const char hex[] = "0123456789abcdef";
    bool blob = sqlite3_column_type(a->stmt, column) == SQLITE_BLOB;
    const unsigned char *data =
        blob ? sqlite3_column_blob(a->stmt, column) : sqlite3_column_text(a->stmt, column);
    size_t n = (size_t)sqlite3_column_bytes(a->stmt, column);
    n = data == NULL ? 0 : n;
    if (!blob && km_utf8_valid((const char *)data, n)) {
        return add_text(a, data == NULL ? "" : (const char *)data, n, err);
    }
    void *memory = NULL;
    KM_TRY(km_alloc(&memory, a->kb->ctx, 2 * n + 1, err));
    char *text = memory;
    for (size_t i = 0; i < n; i++) {
        text[2 * i] = hex[data[i] >> 4];
        text[2 * i + 1] = hex[data[i] & 15];
    }
    km_status status = add_text(a, text, 2 * n, err);
    km_free(a->kb->ctx, memory);
    return status;
}

static km_status keep_cell(answer *a, int column, km_error *err) {
    cell kept = {{0}, KM_COLUMN_TEXT, false};
    switch (sqlite3_column_type(a->stmt, column)) {
    case SQLITE_NULL:
        kept.null = true;
        break;
    case SQLITE_INTEGER:
        kept.type = KM_COLUMN_INT64;
        kept.value.integer = sqlite3_column_int64(a->stmt, column);
        break;
    case SQLITE_FLOAT:
        kept.type = KM_COLUMN_DOUBLE;
        kept.value.real = sqlite3_column_double(a->stmt, column);
        break;
    default:
        kept.value.text = a->texts.n;
        KM_TRY(keep_bytes(a, column, err));
    }
    if (!kept.null) {
        see_cell(&a->columns[column], &kept);
    }
    return km__kb_text_add(&a->cells, (const char *)&kept, sizeof kept, err);
}

static km_status keep_rows(answer *a, int64_t max_rows, km_error *err) {
    bool row = false;
    for (;; a->n_rows++) {
        KM_TRY(km__kb_step(&row, a->kb, a->stmt, err));
        if (!row) {
            return KM_OK;
        }
        if (a->n_rows >= max_rows) {
            return KM_SET(err, KM_ERANGE, "more than %lld rows: ask for fewer (LIMIT)",
                          (long long)max_rows);
        }
        for (int i = 0; i < a->n_columns; i++) {
            KM_TRY(keep_cell(a, i, err));
        }
    }
}

/* Columns without any value take the type they were declared with. */
static void settle_type(column_state *column, sqlite3_stmt *stmt, int i) {
    const char *declared = sqlite3_column_decltype(stmt, i);
    if (!column->seen) {
        column->type = KM_COLUMN_TEXT;
        if (declared != NULL && sqlite3_stricmp(declared, "INTEGER") == 0) {
            column->type = KM_COLUMN_INT64;
        } else if (declared != NULL && sqlite3_stricmp(declared, "REAL") == 0) {
            column->type = KM_COLUMN_DOUBLE;
        }
    }
    if (column->type == KM_COLUMN_DOUBLE && column->big) {
        column->type = KM_COLUMN_TEXT;
    }
}

/* Names as SQLite gives them; a name that occurred before gets a number. */
static void name_column(column_state *columns, sqlite3_stmt *stmt, int i) {
    const char *given = sqlite3_column_name(stmt, i);
    given = given == NULL || given[0] == '\0' ? "column" : given;
    snprintf(columns[i].name, sizeof columns[i].name, "%.120s", given);
    for (int copy = 2, j = 0; j < i; j++) {
        if (strcmp(columns[j].name, columns[i].name) == 0) {
            snprintf(columns[i].name, sizeof columns[i].name, "%.120s_%d", given, copy++);
            j = -1;
        }
    }
}

static km_status make_table(km_table **out, const answer *a, km_error *err) {
    void *memory = NULL;
    KM_TRY(km_alloc_array(&memory, a->kb->ctx, a->n_columns, sizeof(km_column_spec), err));
    km_column_spec *specs = memory;
    for (int i = 0; i < a->n_columns; i++) {
        settle_type(&a->columns[i], a->stmt, i);
        name_column(a->columns, a->stmt, i);
        specs[i] = (km_column_spec){a->columns[i].name, a->columns[i].type, "", ""};
    }
    km_status status = km_table_new(out, a->kb->ctx, specs, a->n_columns, err);
    km_free(a->kb->ctx, memory);
    return status;
}

/* A number in a column of texts, written as SQLite would. */
static km_status set_number_as_text(km_table *table, int column, const cell *from, km_error *err) {
    char text[64];
    if (from->type == KM_COLUMN_INT64) {
        sqlite3_snprintf((int)sizeof text, text, "%lld", (long long)from->value.integer);
    } else {
        sqlite3_snprintf((int)sizeof text, text, "%!.15g", from->value.real);
    }
    return km_table_set_text(table, column, text, -1, err);
}

static km_status set_cell(km_table *table, const answer *a, int column, const cell *from,
                          km_error *err) {
    km_column_type type = a->columns[column].type;
    if (type == KM_COLUMN_INT64) {
        return km_table_set_int64(table, column, from->value.integer, err);
    }
    if (type == KM_COLUMN_DOUBLE) {
        bool integer = from->type == KM_COLUMN_INT64;
        double value = integer ? (double)from->value.integer : from->value.real;
        return km_table_set_double(table, column, value, err);
    }
    if (from->type != KM_COLUMN_TEXT) {
        return set_number_as_text(table, column, from, err);
    }
    size_t n;
    const char *at = a->texts.data + from->value.text;
    memcpy(&n, at, sizeof n);
    return km_table_set_text(table, column, at + sizeof n, (int64_t)n, err);
}

static km_status fill_table(km_table *table, const answer *a, km_error *err) {
    const char *at = a->cells.data;
    for (int64_t row = 0; row < a->n_rows; row++) {
        KM_TRY(km_table_add_row(table, err));
        for (int i = 0; i < a->n_columns; i++, at += sizeof(cell)) {
            cell from;
            memcpy(&from, at, sizeof from);
            if (!from.null) {
                KM_TRY(set_cell(table, a, i, &from, err));
            }
        }
    }
    return KM_OK;
}

km_status km__kb_collect(km_table **out, km_kb *kb, sqlite3_stmt *stmt, int64_t max_rows,
                         km_error *err) {
    km_status status = KM_OK;
    void *columns = NULL;
    km_table *table = NULL;
    answer a = {kb,
                stmt,
                sqlite3_column_count(stmt),
                0,
                NULL,
                {kb->ctx, NULL, 0, 0},
                {kb->ctx, NULL, 0, 0}};
    if (a.n_columns < 1) {
        return KM_SET(err, KM_EINVAL, "the statement gives no columns");
    }
    KM_GO(km_alloc_array(&columns, kb->ctx, a.n_columns, sizeof(column_state), err));
    a.columns = columns;
    KM_GO(keep_rows(&a, max_rows, err));
    KM_GO(make_table(&table, &a, err));
    KM_GO(fill_table(table, &a, err));
    *out = table;
    table = NULL;
done:
    (void)sqlite3_reset(stmt);
    km_table_free(table);
    km__kb_text_free(&a.cells);
    km__kb_text_free(&a.texts);
    km_free(kb->ctx, columns);
    return status;
}

/* ---- parameters ---- */

static km_status bind_parameter(km_kb *kb, sqlite3_stmt *stmt, int index, const json_t *value,
                                km_error *err) {
    switch (json_typeof(value)) {
    case JSON_NULL:
        return km__kb_bind_text(kb, stmt, index, NULL, 0, err);
    case JSON_STRING:
        return km__kb_bind_text(kb, stmt, index, json_string_value(value),
                                (int64_t)json_string_length(value), err);
    case JSON_INTEGER:
        return km__kb_bind_int(kb, stmt, index, json_integer_value(value), err);
    case JSON_TRUE:
    case JSON_FALSE:
        return km__kb_bind_int(kb, stmt, index, json_is_true(value), err);
    case JSON_REAL: {
        int rc = sqlite3_bind_double(stmt, index, json_real_value(value));
        return rc == SQLITE_OK ? KM_OK : km__kb_error(kb, rc, "binding a number", err);
    }
    default:
        return KM_SET(err, KM_EINVAL, "parameter %d must be a number, a text or null", index);
    }
}

/* A named parameter's value: SQL writes ":node", "@node" or "$node", the user "node". */
static km_status bind_parameters(km_kb *kb, sqlite3_stmt *stmt, const json_t *values,
                                 km_error *err) {
    int n = sqlite3_bind_parameter_count(stmt);
    size_t n_given = json_is_array(values) ? json_array_size(values) : json_object_size(values);
    size_t n_used = 0;
    for (int i = 1; i <= n; i++) {
        const char *name = sqlite3_bind_parameter_name(stmt, i);
        const json_t *value = json_is_array(values) ? json_array_get(values, (size_t)i - 1)
                              : name != NULL        ? json_object_get(values, name + 1)
                                                    : NULL;
        if (value == NULL) {
            return KM_SET(err, KM_EINVAL, "parameter %d (%s) has no value", i,
                          name == NULL ? "?" : name);
        }
        KM_TRY(bind_parameter(kb, stmt, i, value, err));
        n_used++;
    }
    if (n_used != n_given) {
        return KM_SET(err, KM_EINVAL, "%zu parameters given where the statement takes %d", n_given,
                      n);
    }
    return KM_OK;
}

static km_status parse_parameters(json_t **out, const char *json, km_error *err) {
    const char *text = json == NULL ? "[]" : json;
    km_status status = km_json_parse(out, text, strlen(text), err);
    if (status != KM_OK) {
        km_error_prefix(err, "parameters");
    }
    return status;
}

/* One statement that reads; anything after it must be blanks or comments. */
static km_status prepare_reading(sqlite3_stmt **out, km_kb *kb, const char *sql, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL, *more = NULL;
    const char *tail = NULL;
    int rc = sqlite3_prepare_v2(kb->db, sql, -1, &stmt, &tail);
    if (rc != SQLITE_OK) {
        return km__kb_error(kb, rc, "SQL", err);
    }
    if (stmt == NULL) {
        KM_FAIL(err, KM_EINVAL, "SQL: there is no statement");
    }
    if (sqlite3_prepare_v2(kb->db, tail, -1, &more, NULL) != SQLITE_OK || more != NULL) {
        KM_FAIL(err, KM_EINVAL, "SQL: one statement at a time");
    }
    if (!sqlite3_stmt_readonly(stmt)) {
        KM_FAIL(err, KM_EINVAL, "SQL: only reading is allowed here");
    }
    *out = stmt;
    stmt = NULL;
done:
    sqlite3_finalize(more);
    sqlite3_finalize(stmt);
    return status;
}

km_status km_kb_query(km_table **out, km_kb *kb, const char *sql, const char *params_json,
                      int timeout_ms, int64_t max_rows, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    json_t *params = NULL;
    *out = NULL;
    KM_TRY(km__kb_ready(kb, err));
    KM_TRY(parse_parameters(&params, params_json, err));
    raise_fences(kb, timeout_ms);
    KM_GO(prepare_reading(&stmt, kb, sql, err));
    KM_GO(bind_parameters(kb, stmt, params, err));
    KM_GO(km__kb_collect(out, kb, stmt, max_rows > 0 ? max_rows : DEFAULT_MAX_ROWS, err));
done:
    sqlite3_finalize(stmt);
    lower_fences(kb);
    json_decref(params);
    return status;
}
