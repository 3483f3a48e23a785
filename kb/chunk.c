/* chunk.c: tables of measurements under content keys.
 *
 * The digest of a chunk is SHA-256 over its columns and rows as stored, one a line: it tells
 * whether a table measured again is the same, and on reading whether somebody changed a row. */

#include <math.h>
#include <string.h>

#include "kb_private.h"

enum { MAX_KEY_BYTES = 200 };

typedef struct stored_chunk {
    int64_t id; /* -1: none */
    int64_t n_rows;
    char digest[65];
} stored_chunk;

static km_status check_key(const char *key, km_error *err) {
    size_t n = key == NULL ? 0 : strlen(key);
    if (n < 1 || n > MAX_KEY_BYTES || !km_utf8_valid(key, n)) {
        return KM_SET(err, KM_EINVAL, "a content key is a text of 1 to %d bytes", MAX_KEY_BYTES);
    }
    return KM_OK;
}

static void hash_line(km_sha256 *sha, const char *text, size_t n) {
    km_sha256_update(sha, text, n);
    km_sha256_update(sha, "\n", 1);
}

static void hex_digest(char out[65], km_sha256 *sha) {
    unsigned char digest[32];
    km_sha256_final(sha, digest);
    km_sha256_hex(out, digest);
}

/* The chunk of a key; when `columns` is given, also the columns as an owned text. */
static km_status find_chunk(stored_chunk *out, km__kb_text *columns, km_kb *kb, const char *key,
                            km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    out->id = -1;
    KM_GO(km__kb_prepare(&stmt, kb, "SELECT id, n_rows, digest, columns FROM chunks WHERE key = ?1",
                         err));
    KM_GO(km__kb_bind_text(kb, stmt, 1, key, -1, err));
    KM_GO(km__kb_step(&row, kb, stmt, err));
    if (!row) {
        goto done;
    }
    const char *digest = (const char *)sqlite3_column_text(stmt, 2);
    if (digest == NULL || strlen(digest) != 64) {
        KM_FAIL(err, KM_EFORMAT, "%s: the chunk '%s' has no digest", kb->path, key);
    }
    memcpy(out->digest, digest, 65);
    out->n_rows = sqlite3_column_int64(stmt, 1);
    if (columns != NULL) {
        const char *text = (const char *)sqlite3_column_text(stmt, 3);
        columns->n = 0;
        KM_GO(km__kb_text_add(columns, text == NULL ? "" : text,
                              (size_t)sqlite3_column_bytes(stmt, 3), err));
    }
    out->id = sqlite3_column_int64(stmt, 0);
done:
    sqlite3_finalize(stmt);
    return status;
}

/* Encode every row; hash it, and insert it when `stmt` is not NULL. */
static km_status write_rows(km_sha256 *sha, km_kb *kb, sqlite3_stmt *stmt, int64_t chunk,
                            const km_table *table, km_error *err) {
    km_status status = KM_OK;
    km__kb_text text = {kb->ctx, NULL, 0, 0};
    km__kb_encoder encoder;
    KM_GO(km__kb_encoder_init(&encoder, kb->ctx, table, err));
    KM_GO(km__kb_encode_columns(&text, table, err));
    hash_line(sha, text.data, text.n);
    for (int64_t row = 0; row < km_table_rows(table); row++) {
        KM_GO(km__kb_encode_row(&text, &encoder, row, err));
        hash_line(sha, text.data, text.n);
        if (stmt == NULL) {
            continue;
        }
        int rc = sqlite3_bind_int64(stmt, 1, chunk);
        rc = rc == SQLITE_OK ? sqlite3_bind_int64(stmt, 2, row) : rc;
        rc = rc == SQLITE_OK
                 ? sqlite3_bind_text64(stmt, 3, text.data, text.n, SQLITE_STATIC, SQLITE_UTF8)
                 : rc;
        if (rc != SQLITE_OK) {
            status = km__kb_error(kb, rc, "binding a row", err);
            goto done;
        }
        KM_GO(km__kb_run(kb, stmt, err));
    }
done:
    km__kb_encoder_free(&encoder);
    km__kb_text_free(&text);
    return status;
}

static km_status insert_chunk(int64_t *out, km_kb *kb, int64_t run, const char *key,
                              const km_table *table, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    km__kb_text columns = {kb->ctx, NULL, 0, 0};
    KM_GO(km__kb_encode_columns(&columns, table, err));
    KM_GO(km__kb_prepare(&stmt, kb,
                         "INSERT INTO chunks (key, run, columns, n_rows, digest, stored) VALUES"
                         " (?1, ?2, ?3, ?4, '', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
                         err));
    KM_GO(km__kb_bind_text(kb, stmt, 1, key, -1, err));
    KM_GO(km__kb_bind_int(kb, stmt, 2, run, err));
    KM_GO(km__kb_bind_text(kb, stmt, 3, columns.data, (int64_t)columns.n, err));
    KM_GO(km__kb_bind_int(kb, stmt, 4, km_table_rows(table), err));
    KM_GO(km__kb_run(kb, stmt, err));
    *out = sqlite3_last_insert_rowid(kb->db);
done:
    km__kb_text_free(&columns);
    sqlite3_finalize(stmt);
    return status;
}

static km_status set_digest(km_kb *kb, int64_t chunk, const char *digest, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    KM_GO(km__kb_prepare(&stmt, kb, "UPDATE chunks SET digest = ?2 WHERE id = ?1", err));
    KM_GO(km__kb_bind_int(kb, stmt, 1, chunk, err));
    KM_GO(km__kb_bind_text(kb, stmt, 2, digest, 64, err));
    KM_GO(km__kb_run(kb, stmt, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

static km_status link_run(km_kb *kb, int64_t run, int64_t chunk, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    KM_GO(km__kb_prepare(&stmt, kb, "INSERT OR IGNORE INTO run_chunks (run, chunk) VALUES (?1, ?2)",
                         err));
    KM_GO(km__kb_bind_int(kb, stmt, 1, run, err));
    KM_GO(km__kb_bind_int(kb, stmt, 2, chunk, err));
    KM_GO(km__kb_run(kb, stmt, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

static km_status store_new(km_kb *kb, int64_t run, const char *key, const km_table *table,
                           km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    int64_t chunk = 0;
    char digest[65];
    km_sha256 sha;
    km_sha256_init(&sha);
    KM_GO(insert_chunk(&chunk, kb, run, key, table, err));
    KM_GO(km__kb_prepare(&stmt, kb,
                         "INSERT INTO measurements (chunk, row, data) VALUES (?1, ?2, ?3)", err));
    KM_GO(write_rows(&sha, kb, stmt, chunk, table, err));
    hex_digest(digest, &sha);
    KM_GO(set_digest(kb, chunk, digest, err));
    KM_GO(link_run(kb, run, chunk, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

static bool same_cell(double *difference, const km_table *a, const km_table *b, int column,
                      int64_t row) {
    const km_column_spec *spec = km_table_spec(a, column);
    int64_t n_a = 0, n_b = 0;
    if (km_table_is_null(a, column, row) || km_table_is_null(b, column, row)) {
        return km_table_is_null(a, column, row) == km_table_is_null(b, column, row);
    }
    if (spec->type == KM_COLUMN_TEXT) {
        const char *text_a = km_table_text(a, column, row, &n_a);
        const char *text_b = km_table_text(b, column, row, &n_b);
        return n_a == n_b && memcmp(text_a, text_b, (size_t)n_a) == 0;
    }
    double x = 0.0, y = 0.0;
    if (spec->type == KM_COLUMN_DOUBLE) {
        x = km_table_double(a, column, row);
        y = km_table_double(b, column, row);
    } else if (spec->type == KM_COLUMN_INT64) {
        x = (double)km_table_int64(a, column, row);
        y = (double)km_table_int64(b, column, row);
    } else {
        return km_table_bool(a, column, row) == km_table_bool(b, column, row);
    }
    if (isnan(x) || isnan(y) || isinf(x) || isinf(y)) {
        return x == y || (isnan(x) && isnan(y));
    }
    *difference = fmax(*difference, fabs(x - y));
    return true;
}

/* The largest difference of two numbers, or false when the tables differ in anything else. */
static bool max_difference(double *out, const km_table *a, const km_table *b) {
    *out = 0.0;
    if (km_table_columns(a) != km_table_columns(b) || km_table_rows(a) != km_table_rows(b)) {
        return false;
    }
    for (int i = 0; i < km_table_columns(a); i++) {
        const km_column_spec *sa = km_table_spec(a, i), *sb = km_table_spec(b, i);
        if (sa->type != sb->type || strcmp(sa->name, sb->name) != 0) {
            return false;
        }
        for (int64_t row = 0; row < km_table_rows(a); row++) {
            if (!same_cell(out, a, b, i, row)) {
                return false;
            }
        }
    }
    return true;
}

static km_status note_conflict(km_kb *kb, const stored_chunk *chunk, int64_t run, const char *key,
                               const char *digest, const km_table *table, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    km_table *old = NULL;
    double difference = 0.0;
    KM_GO(km_kb_load_chunk(&old, kb, key, err));
    KM_GO(km__kb_prepare(&stmt, kb,
                         "INSERT OR IGNORE INTO conflicts (chunk, run, digest, max_difference,"
                         " found) VALUES (?1, ?2, ?3, ?4,"
                         " strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))",
                         err));
    KM_GO(km__kb_bind_int(kb, stmt, 1, chunk->id, err));
    KM_GO(km__kb_bind_int(kb, stmt, 2, run, err));
    KM_GO(km__kb_bind_text(kb, stmt, 3, digest, 64, err));
    if (old != NULL && max_difference(&difference, old, table)) {
        (void)sqlite3_bind_double(stmt, 4, difference);
    }
    KM_GO(km__kb_run(kb, stmt, err));
done:
    km_table_free(old);
    sqlite3_finalize(stmt);
    return status;
}

static km_status compare_with_stored(km_kb_stored *out, km_kb *kb, const stored_chunk *chunk,
                                     int64_t run, const char *key, const km_table *table,
                                     km_error *err) {
    char digest[65];
    km_sha256 sha;
    km_sha256_init(&sha);
    KM_TRY(write_rows(&sha, kb, NULL, 0, table, err));
    hex_digest(digest, &sha);
    *out = strcmp(digest, chunk->digest) == 0 ? KM_KB_SAME : KM_KB_DIFFERS;
    if (*out == KM_KB_DIFFERS) {
        KM_TRY(note_conflict(kb, chunk, run, key, digest, table, err));
    }
    return link_run(kb, run, chunk->id, err);
}

static km_status check_run(km_kb *kb, int64_t run, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    KM_GO(km__kb_prepare(&stmt, kb, "SELECT 1 FROM runs WHERE id = ?1", err));
    KM_GO(km__kb_bind_int(kb, stmt, 1, run, err));
    KM_GO(km__kb_step(&row, kb, stmt, err));
    if (!row) {
        KM_FAIL(err, KM_ENOTFOUND, "there is no run %lld", (long long)run);
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

km_status km_kb_store_chunk(km_kb_stored *out, km_kb *kb, int64_t run, const char *key,
                            const km_table *table, km_error *err) {
    km_status status = KM_OK;
    stored_chunk chunk;
    km_kb_stored outcome = KM_KB_STORED;
    KM_TRY(check_key(key, err));
    KM_TRY(km_kb_begin(kb, err));
    KM_GO(check_run(kb, run, err));
    KM_GO(find_chunk(&chunk, NULL, kb, key, err));
    if (chunk.id >= 0) {
        KM_GO(compare_with_stored(&outcome, kb, &chunk, run, key, table, err));
    } else {
        KM_GO(store_new(kb, run, key, table, err));
    }
    if (out != NULL) {
        *out = outcome;
    }
done:
    return km__kb_end(kb, status, err);
}

static km_status read_rows(km_table *table, km_sha256 *sha, km_kb *kb, int64_t chunk,
                           km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    KM_GO(km__kb_prepare(&stmt, kb, "SELECT data FROM measurements WHERE chunk = ?1 ORDER BY row",
                         err));
    KM_GO(km__kb_bind_int(kb, stmt, 1, chunk, err));
    for (;;) {
        KM_GO(km__kb_step(&row, kb, stmt, err));
        if (!row) {
            break;
        }
        const char *text = (const char *)sqlite3_column_text(stmt, 0);
        size_t n = (size_t)sqlite3_column_bytes(stmt, 0);
        text = text == NULL ? "" : text;
        hash_line(sha, text, n);
        KM_GO(km__kb_decode_row(table, text, n, err));
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

static km_status load_rows(km_table **out, km_kb *kb, const char *key, km_error *err) {
    km_status status = KM_OK;
    stored_chunk chunk;
    km__kb_text columns = {kb->ctx, NULL, 0, 0};
    km_table *table = NULL;
    char digest[65];
    km_sha256 sha;
    km_sha256_init(&sha);
    KM_GO(find_chunk(&chunk, &columns, kb, key, err));
    if (chunk.id < 0) {
        goto done;
    }
    KM_GO(km__kb_decode_columns(&table, kb->ctx, columns.data, columns.n, err));
    hash_line(&sha, columns.data, columns.n);
    KM_GO(read_rows(table, &sha, kb, chunk.id, err));
    hex_digest(digest, &sha);
    if (strcmp(digest, chunk.digest) != 0 || km_table_rows(table) != chunk.n_rows) {
        KM_FAIL(err, KM_EFORMAT, "its rows were changed after they were stored");
    }
    *out = table;
    table = NULL;
done:
    km_table_free(table);
    km__kb_text_free(&columns);
    return status;
}

/* Rows and head are read in one statement's snapshot each; a chunk never changes once stored, so
 * the two agree. What is stored but cannot be a table is a damaged file, whatever the reason. */
km_status km_kb_load_chunk(km_table **out, km_kb *kb, const char *key, km_error *err) {
    km_error reason = KM_ERROR_INIT;
    *out = NULL;
    KM_TRY(km__kb_ready(kb, err));
    KM_TRY(check_key(key, err));
    km_status status = load_rows(out, kb, key, &reason);
    if (status == KM_OK) {
        return KM_OK;
    }
    km_status code = status == KM_EINVAL || status == KM_ERANGE ? KM_EFORMAT : status;
    if (code == KM_EIO) {
        return km_error_set_errno(err, reason.os_errno, __FILE__, __func__, __LINE__,
                                  "chunk '%s': %s", key, reason.message);
    }
    return KM_SET(err, code, "%s: chunk '%s': %s", kb->path, key, reason.message);
}

km_status km_kb_use_chunk(km_kb *kb, int64_t run, const char *key, km_error *err) {
    km_status status = KM_OK;
    stored_chunk chunk;
    KM_TRY(check_key(key, err));
    KM_TRY(km_kb_begin(kb, err));
    KM_GO(check_run(kb, run, err));
    KM_GO(find_chunk(&chunk, NULL, kb, key, err));
    if (chunk.id < 0) {
        KM_FAIL(err, KM_ENOTFOUND, "there is no chunk '%s'", key);
    }
    KM_GO(link_run(kb, run, chunk.id, err));
done:
    return km__kb_end(kb, status, err);
}
