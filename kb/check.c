/* check.c: what the file says about itself, and whether it is sound.
 *
 * SQLite's own checks cover pages and indexes, foreign keys the references. A model must not come
 * from itself. The digests cover what SQLite cannot know: that the rows of a chunk are those that
 * were measured, and predictions and units those that were frozen.
 */

#include <string.h>

#include "kb_private.h"

static const char info_sql[] =
    "SELECT 'path' AS name, ?1 AS value"
    " UNION ALL SELECT 'schema_version', (SELECT user_version FROM pragma_user_version)"
    " UNION ALL SELECT key, value FROM meta"
    " UNION ALL SELECT 'journal_mode', (SELECT journal_mode FROM pragma_journal_mode)"
    " UNION ALL SELECT 'bytes', (SELECT page_count FROM pragma_page_count)"
    "                           * (SELECT page_size FROM pragma_page_size)"
    " UNION ALL SELECT 'sqlite', sqlite_version()"
    " UNION ALL SELECT 'nodes', count(*) FROM nodes"
    " UNION ALL SELECT 'works', count(*) FROM works"
    " UNION ALL SELECT 'edges', count(*) FROM edges"
    " UNION ALL SELECT 'measures', count(*) FROM measures"
    " UNION ALL SELECT 'models', count(*) FROM models"
    " UNION ALL SELECT 'lineage', count(*) FROM lineage"
    " UNION ALL SELECT 'facts', count(*) FROM facts"
    " UNION ALL SELECT 'texts', count(*) FROM texts"
    " UNION ALL SELECT 'runs', count(*) FROM runs"
    " UNION ALL SELECT 'chunks', count(*) FROM chunks"
    " UNION ALL SELECT 'measurements', coalesce(sum(n_rows), 0) FROM chunks"
    " UNION ALL SELECT 'conflicts', count(*) FROM conflicts"
    " UNION ALL SELECT 'taxonomy_conflicts', count(*) FROM taxonomy_conflicts"
    " UNION ALL SELECT 'evidence', count(*) FROM evidence"
    " UNION ALL SELECT 'predictions', count(*) FROM predictions"
    " UNION ALL SELECT 'verdicts', count(*) FROM verdicts";

km_status km_kb_info(km_table **out, km_kb *kb, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    *out = NULL;
    KM_TRY(km__kb_ready(kb, err));
    KM_GO(km__kb_prepare(&stmt, kb, info_sql, err));
    KM_GO(km__kb_bind_text(kb, stmt, 1, kb->path, -1, err));
    KM_GO(km__kb_collect(out, kb, stmt, 1000, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

/* One row; bytes that are not UTF-8 come from a damaged file and are not shown. */
static km_status add_problem(km_table *table, const char *what, const char *problem,
                             km_error *err) {
    bool readable = problem != NULL && km_utf8_valid(problem, strlen(problem));
    KM_TRY(km_table_add_row(table, err));
    KM_TRY(km_table_set_text(table, 0, what, -1, err));
    return km_table_set_text(table, 1, readable ? problem : "(unreadable)", -1, err);
}

/* Each row of a pragma but "ok" is a problem. Damage that stops the pragma itself is one too. */
static km_status check_pages(km_table *table, km_kb *kb, bool full, km_error *err) {
    km_error reason = KM_ERROR_INIT;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    const char *sql = full ? "PRAGMA integrity_check" : "PRAGMA quick_check";
    km_status status = km__kb_prepare(&stmt, kb, sql, &reason);
    while (status == KM_OK) {
        status = km__kb_step(&row, kb, stmt, &reason);
        if (status != KM_OK || !row) {
            break;
        }
        const char *text = (const char *)sqlite3_column_text(stmt, 0);
        if (text == NULL || strcmp(text, "ok") != 0) {
            status = add_problem(table, "pages", text, &reason);
        }
    }
    sqlite3_finalize(stmt);
    if (status == KM_EFORMAT) {
        return add_problem(table, "pages", reason.message, err);
    }
    return status == KM_OK ? KM_OK : KM_SET(err, status, "%s", reason.message);
}

static const char references_sql[] =
    "SELECT format('a row of %s points to a row of %s that is not there', \"table\", parent)"
    " FROM pragma_foreign_key_check LIMIT 1000";

/* UNION keeps each pair of models once, so that circles end. */
static const char circles_sql[] =
    "WITH RECURSIVE up (model, ancestor) AS (SELECT child, parent FROM lineage UNION"
    " SELECT up.model, l.parent FROM up JOIN lineage AS l ON l.child = up.ancestor)"
    " SELECT format('the model %s comes from itself', model) FROM up WHERE model = ancestor"
    " ORDER BY model LIMIT 1000";

/* Each row of a statement is a problem. */
static km_status check_rows(km_table *table, km_kb *kb, const char *what, const char *sql,
                            km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    KM_GO(km__kb_prepare(&stmt, kb, sql, err));
    for (;;) {
        KM_GO(km__kb_step(&row, kb, stmt, err));
        if (!row) {
            break;
        }
        KM_GO(add_problem(table, what, (const char *)sqlite3_column_text(stmt, 0), err));
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

static km_status check_chunks(km_table *table, km_kb *kb, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    KM_GO(km__kb_prepare(&stmt, kb, "SELECT key FROM chunks ORDER BY id", err));
    for (;;) {
        KM_GO(km__kb_step(&row, kb, stmt, err));
        if (!row) {
            break;
        }
        km_error reason = KM_ERROR_INIT;
        km_table *chunk = NULL;
        const char *key = (const char *)sqlite3_column_text(stmt, 0);
        km_status found = km_kb_load_chunk(&chunk, kb, key == NULL ? "" : key, &reason);
        km_table_free(chunk);
        if (found == KM_EFORMAT || found == KM_EINVAL) {
            KM_GO(add_problem(table, "chunk", reason.message, err));
        } else if (found != KM_OK) {
            KM_FAIL(err, found, "%s", reason.message);
        }
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

static const char frozen_sql[] = "SELECT digest, content, 'prediction ' || id FROM predictions"
                                 " UNION ALL SELECT digest, content, 'unit ' || digest FROM units";

/* A frozen text that is not the one its digest was made of was changed by another program. */
static km_status check_frozen(km_table *table, km_kb *kb, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    KM_GO(km__kb_prepare(&stmt, kb, frozen_sql, err));
    for (;;) {
        KM_GO(km__kb_step(&row, kb, stmt, err));
        if (!row) {
            break;
        }
        km_sha256 sha;
        unsigned char digest[32];
        char hex[65];
        const char *stored = (const char *)sqlite3_column_text(stmt, 0);
        const char *text = (const char *)sqlite3_column_text(stmt, 1);
        km_sha256_init(&sha);
        km_sha256_update(&sha, text == NULL ? "" : text, (size_t)sqlite3_column_bytes(stmt, 1));
        km_sha256_final(&sha, digest);
        km_sha256_hex(hex, digest);
        if (stored == NULL || strcmp(stored, hex) != 0) {
            KM_GO(
                add_problem(table, "frozen text", (const char *)sqlite3_column_text(stmt, 2), err));
        }
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

km_status km_kb_check(km_table **out, km_kb *kb, bool full, km_error *err) {
    static const km_column_spec columns[] = {
        {"what", KM_COLUMN_TEXT, "", "pages, references, lineage, frozen text or chunk."},
        {"problem", KM_COLUMN_TEXT, "", "What is wrong."},
    };
    km_status status = KM_OK;
    km_table *table = NULL;
    *out = NULL;
    KM_TRY(km__kb_ready(kb, err));
    KM_GO(km_table_new(&table, kb->ctx, columns, 2, err));
    KM_GO(check_pages(table, kb, full, err));
    if (km_table_rows(table) == 0) {
        KM_GO(check_rows(table, kb, "references", references_sql, err));
        KM_GO(check_rows(table, kb, "lineage", circles_sql, err));
        KM_GO(check_frozen(table, kb, err));
        if (full) {
            KM_GO(check_chunks(table, kb, err));
        }
    }
    *out = table;
    table = NULL;
done:
    km_table_free(table);
    return status;
}
