/* sqlite.c: SQLite's statements and transactions with km's errors.
 *
 * Transactions nest: the outermost is BEGIN IMMEDIATE (so that a writer waits at the start, where
 * waiting cannot deadlock), inner ones are savepoints. A failed inner one undoes only itself. */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kb_private.h"

static const struct {
    int code; /* SQLite's primary code */
    km_status status;
    int os_errno;
    const char *text;
} error_map[] = {
    {SQLITE_NOMEM, KM_ENOMEM, 0, "out of memory"},
    {SQLITE_BUSY, KM_ESTATE, 0, "another process is writing to the knowledge base"},
    {SQLITE_LOCKED, KM_ESTATE, 0, "the knowledge base is in use"},
    {SQLITE_CORRUPT, KM_EFORMAT, 0, "the database is damaged"},
    {SQLITE_NOTADB, KM_EFORMAT, 0, "not an SQLite database"},
    {SQLITE_FULL, KM_EIO, ENOSPC, "the disk is full; nothing was changed"},
    {SQLITE_READONLY, KM_EIO, EROFS, "the knowledge base cannot be written"},
    {SQLITE_CANTOPEN, KM_EIO, ENOENT, "cannot open the database file"},
    {SQLITE_IOERR, KM_EIO, EIO, "input or output failed"},
    {SQLITE_PERM, KM_EIO, EACCES, "access denied"},
    {SQLITE_INTERRUPT, KM_ECANCELLED, 0,
     "the statement was stopped: it took too long, or was cancelled"},
    {SQLITE_CONSTRAINT, KM_EINVAL, 0, "the record breaks a rule of the schema"},
    {SQLITE_TOOBIG, KM_ERANGE, 0, "a value is too big"},
    {SQLITE_AUTH, KM_EINVAL, 0, "only reading is allowed here"},
};

km_status km__kb_error(const km_kb *kb, int rc, const char *what, km_error *err) {
    const char *detail = kb->db == NULL ? sqlite3_errstr(rc) : sqlite3_errmsg(kb->db);
    int os_errno = kb->db == NULL ? 0 : sqlite3_system_errno(kb->db);
    for (size_t i = 0; i < sizeof error_map / sizeof error_map[0]; i++) {
        if (error_map[i].code != (rc & 0xff)) {
            continue;
        }
        if (error_map[i].status == KM_EIO) {
            bool fixed = (rc & 0xff) == SQLITE_FULL || (rc & 0xff) == SQLITE_READONLY;
            int code = os_errno != 0 && !fixed ? os_errno : error_map[i].os_errno;
            return km_error_set_errno(err, code, __FILE__, __func__, __LINE__, "%s: %s: %s (%s)",
                                      kb->path, what, error_map[i].text, detail);
        }
        return KM_SET(err, error_map[i].status, "%s: %s: %s (%s)", kb->path, what,
                      error_map[i].text, detail);
    }
    if (kb->user_sql) {
        return KM_SET(err, KM_EINVAL, "%s: %s", what, detail);
    }
    return KM_SET(err, KM_EFORMAT, "%s: %s: the schema is not km's (%s)", kb->path, what, detail);
}

km_status km__kb_ready(const km_kb *kb, km_error *err) {
    if (kb->pid != getpid()) {
        return KM_SET(err, KM_ESTATE,
                      "%s: opened before fork(): open the knowledge base again in the child",
                      kb->path);
    }
    return KM_OK;
}

km_status km__kb_writable(const km_kb *kb, km_error *err) {
    KM_TRY(km__kb_ready(kb, err));
    if (kb->read_only) {
        return km_error_set_errno(err, EROFS, __FILE__, __func__, __LINE__,
                                  "%s: opened for reading only", kb->path);
    }
    return KM_OK;
}

km_status km__kb_prepare(sqlite3_stmt **out, km_kb *kb, const char *sql, km_error *err) {
    *out = NULL;
    int rc = sqlite3_prepare_v2(kb->db, sql, -1, out, NULL);
    if (rc != SQLITE_OK) {
        return km__kb_error(kb, rc, "preparing a statement", err);
    }
    return KM_OK;
}

km_status km__kb_step(bool *row, km_kb *kb, sqlite3_stmt *stmt, km_error *err) {
    int rc = sqlite3_step(stmt);
    *row = rc == SQLITE_ROW;
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) {
        return km__kb_error(kb, rc, "running a statement", err);
    }
    return KM_OK;
}

km_status km__kb_run(km_kb *kb, sqlite3_stmt *stmt, km_error *err) {
    bool row = false;
    km_status status = km__kb_step(&row, kb, stmt, err);
    (void)sqlite3_reset(stmt);
    return status;
}

km_status km__kb_exec(km_kb *kb, const char *sql, km_error *err) {
    int rc = sqlite3_exec(kb->db, sql, NULL, NULL, NULL);
    if (rc != SQLITE_OK) {
        return km__kb_error(kb, rc, "running a statement", err);
    }
    return KM_OK;
}

km_status km__kb_bind_text(km_kb *kb, sqlite3_stmt *stmt, int index, const char *text, int64_t n,
                           km_error *err) {
    sqlite3_uint64 size = text == NULL ? 0 : n < 0 ? strlen(text) : (sqlite3_uint64)n;
    int rc = text == NULL
                 ? sqlite3_bind_null(stmt, index)
                 : sqlite3_bind_text64(stmt, index, text, size, SQLITE_TRANSIENT, SQLITE_UTF8);
    return rc == SQLITE_OK ? KM_OK : km__kb_error(kb, rc, "binding a text", err);
}

km_status km__kb_bind_int(km_kb *kb, sqlite3_stmt *stmt, int index, int64_t value, km_error *err) {
    int rc = sqlite3_bind_int64(stmt, index, value);
    return rc == SQLITE_OK ? KM_OK : km__kb_error(kb, rc, "binding a number", err);
}

km_status km__kb_scalar(int64_t *out, bool *found, km_kb *kb, const char *sql, const char *a,
                        const char *b, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    *out = 0;
    *found = false;
    KM_GO(km__kb_prepare(&stmt, kb, sql, err));
    if (a != NULL) {
        KM_GO(km__kb_bind_text(kb, stmt, 1, a, -1, err));
    }
    if (b != NULL) {
        KM_GO(km__kb_bind_text(kb, stmt, 2, b, -1, err));
    }
    KM_GO(km__kb_step(&row, kb, stmt, err));
    if (row && sqlite3_column_type(stmt, 0) != SQLITE_NULL) {
        *out = sqlite3_column_int64(stmt, 0);
        *found = true;
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

/* SQLite undoes the whole transaction by itself on some errors (a full disk). What follows inside
 * it must not start another by accident. */
static km_status still_open(const km_kb *kb, km_error *err) {
    if (kb->depth > 0 && sqlite3_get_autocommit(kb->db)) {
        return KM_SET(err, KM_ESTATE, "%s: the transaction was undone by an earlier error",
                      kb->path);
    }
    return KM_OK;
}

km_status km_kb_begin(km_kb *kb, km_error *err) {
    KM_TRY(km__kb_writable(kb, err));
    KM_TRY(still_open(kb, err));
    char sql[40];
    if (kb->depth == 0) {
        snprintf(sql, sizeof sql, "BEGIN IMMEDIATE");
    } else {
        snprintf(sql, sizeof sql, "SAVEPOINT km_%d", kb->depth);
    }
    KM_TRY(km__kb_exec(kb, sql, err));
    kb->depth++;
    return KM_OK;
}

km_status km_kb_commit(km_kb *kb, km_error *err) {
    KM_TRY(km__kb_ready(kb, err));
    if (kb->depth == 0) {
        return KM_SET(err, KM_ESTATE, "%s: commit without begin", kb->path);
    }
    char sql[40];
    if (kb->depth == 1) {
        snprintf(sql, sizeof sql, "COMMIT");
    } else {
        snprintf(sql, sizeof sql, "RELEASE km_%d", kb->depth - 1);
    }
    km_status status = still_open(kb, err);
    if (status == KM_OK) {
        status = km__kb_exec(kb, sql, err);
    }
    if (status != KM_OK) {
        km_kb_rollback(kb);
        return status;
    }
    kb->depth--;
    return KM_OK;
}

/* Where SQLite has undone the transaction already, the statements here fail: nothing is left. */
void km_kb_rollback(km_kb *kb) {
    if (kb->depth == 0 || kb->pid != getpid()) {
        return;
    }
    kb->depth--;
    char sql[64];
    if (kb->depth == 0) {
        snprintf(sql, sizeof sql, "ROLLBACK");
    } else {
        snprintf(sql, sizeof sql, "ROLLBACK TO km_%d; RELEASE km_%d", kb->depth, kb->depth);
    }
    (void)sqlite3_exec(kb->db, sql, NULL, NULL, NULL);
}

km_status km__kb_end(km_kb *kb, km_status status, km_error *err) {
    if (status == KM_OK) {
        return km_kb_commit(kb, err);
    }
    km_kb_rollback(kb);
    return status;
}
