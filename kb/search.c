/* search.c: full-text search with FTS5; Chinese, Japanese and Korean by pairs of characters.
 *
 * FTS5's tokenizer takes a whole run of Chinese as one word. So the index holds each run as its
 * overlapping pairs and its last character ("知识编辑" as "知识 识编 编辑 辑"), and a query's run
 * becomes the phrase of its pairs; a single character is asked for as the beginning of a pair. What
 * the user typed is always quoted: FTS5's own query language is out of reach. */

#include <string.h>

#include "kb_private.h"

enum { DEFAULT_LIMIT = 50 };

/* Decode one character of valid UTF-8; returns its length. */
static size_t decode(uint32_t *out, const char *text, size_t n) {
    unsigned char c = (unsigned char)text[0];
    size_t length = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    if (length > n) {
        *out = c;
        return 1;
    }
    uint32_t code = length == 1 ? c : c & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        code = code << 6 | ((unsigned char)text[i] & 0x3fu);
    }
    *out = code;
    return length;
}

static bool is_cjk(uint32_t code) {
    return (code >= 0x3040 && code <= 0x30ff) || (code >= 0x3400 && code <= 0x4dbf) ||
           (code >= 0x4e00 && code <= 0x9fff) || (code >= 0xac00 && code <= 0xd7af) ||
           (code >= 0xf900 && code <= 0xfaff) || (code >= 0x20000 && code <= 0x3ffff);
}

/* Length in bytes of the run at the start of the text whose characters are CJK, or are not. */
static size_t run_length(const char *text, size_t n, bool cjk) {
    size_t at = 0;
    while (at < n) {
        uint32_t code;
        size_t length = decode(&code, text + at, n - at);
        if (is_cjk(code) != cjk) {
            break;
        }
        at += length;
    }
    return at;
}

/* The pairs of one run, each followed by a blank; with `tail` also its last character. A run of one
 * character gives that character. */
static km_status add_pairs(km__kb_text *out, const char *run, size_t n, bool tail, km_error *err) {
    uint32_t code;
    size_t at = 0, length = decode(&code, run, n);
    while (at + length < n) {
        size_t next = decode(&code, run + at + length, n - at - length);
        KM_TRY(km__kb_text_add(out, run + at, length + next, err));
        KM_TRY(km__kb_text_add(out, " ", 1, err));
        at += length;
        length = next;
    }
    if (tail || at == 0) {
        KM_TRY(km__kb_text_add(out, run + at, length, err));
        KM_TRY(km__kb_text_add(out, " ", 1, err));
    }
    return KM_OK;
}

static km_status add_bigrams(km__kb_text *out, const char *text, size_t n, km_error *err) {
    out->n = 0;
    KM_TRY(km__kb_text_add(out, "", 0, err));
    for (size_t at = 0; at < n;) {
        size_t length = run_length(text + at, n - at, false);
        KM_TRY(km__kb_text_add(out, text + at, length, err));
        at += length;
        length = run_length(text + at, n - at, true);
        if (length > 0) {
            KM_TRY(km__kb_text_add(out, " ", 1, err));
            KM_TRY(add_pairs(out, text + at, length, true, err));
        }
        at += length;
    }
    return KM_OK;
}

static km_status bind_bigrams(km_kb *kb, sqlite3_stmt *to, int index, sqlite3_stmt *from,
                              int column, km__kb_text *buffer, km_error *err) {
    const char *text = (const char *)sqlite3_column_text(from, column);
    size_t n = (size_t)sqlite3_column_bytes(from, column);
    KM_TRY(add_bigrams(buffer, text == NULL ? "" : text, text == NULL ? 0 : n, err));
    return km__kb_bind_text(kb, to, index, buffer->data, (int64_t)buffer->n, err);
}

static const char unindexed[] =
    "SELECT s.ref, s.title, s.body FROM searchable AS s WHERE s.kind = ?1 AND NOT EXISTS"
    " (SELECT 1 FROM search_documents AS d WHERE d.kind = ?1 AND d.ref = s.ref)";

km_status km__kb_index(km_kb *kb, const char *kind, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *rows = NULL, *document = NULL, *index = NULL;
    km__kb_text buffer = {kb->ctx, NULL, 0, 0};
    bool row = false;
    KM_GO(km__kb_prepare(&rows, kb, unindexed, err));
    KM_GO(km__kb_prepare(&document, kb, "INSERT INTO search_documents (kind, ref) VALUES (?1, ?2)",
                         err));
    KM_GO(km__kb_prepare(&index, kb,
                         "INSERT INTO search_index (rowid, title, body) VALUES (?1, ?2, ?3)", err));
    KM_GO(km__kb_bind_text(kb, rows, 1, kind, -1, err));
    for (;;) {
        KM_GO(km__kb_step(&row, kb, rows, err));
        if (!row) {
            break;
        }
        KM_GO(km__kb_bind_text(kb, document, 1, kind, -1, err));
        KM_GO(
            km__kb_bind_text(kb, document, 2, (const char *)sqlite3_column_text(rows, 0), -1, err));
        KM_GO(km__kb_run(kb, document, err));
        KM_GO(km__kb_bind_int(kb, index, 1, sqlite3_last_insert_rowid(kb->db), err));
        KM_GO(bind_bigrams(kb, index, 2, rows, 1, &buffer, err));
        KM_GO(bind_bigrams(kb, index, 3, rows, 2, &buffer, err));
        KM_GO(km__kb_run(kb, index, err));
    }
done:
    km__kb_text_free(&buffer);
    sqlite3_finalize(rows);
    sqlite3_finalize(document);
    sqlite3_finalize(index);
    return status;
}

km_status km__kb_unindex(km_kb *kb, const char *kind, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    static const char *const statements[] = {
        "DELETE FROM search_index WHERE rowid IN"
        " (SELECT id FROM search_documents WHERE kind = ?1)",
        "DELETE FROM search_documents WHERE kind = ?1",
    };
    for (int i = 0; i < 2; i++) {
        KM_GO(km__kb_prepare(&stmt, kb, statements[i], err));
        KM_GO(km__kb_bind_text(kb, stmt, 1, kind, -1, err));
        KM_GO(km__kb_run(kb, stmt, err));
        sqlite3_finalize(stmt);
        stmt = NULL;
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

/* FTS5 takes ASCII punctuation for separators; a word of nothing else would match nothing. */
static bool has_letter(const char *word, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)word[i];
        if (c >= 0x80 || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')) {
            return true;
        }
    }
    return false;
}

static bool is_separator(char c) {
    return (unsigned char)c <= ' ' || c == '"';
}

/* One quoted word per piece of a run without CJK characters. */
static km_status add_words(km__kb_text *query, const char *run, size_t n, km_error *err) {
    for (size_t at = 0; at < n;) {
        size_t end = at;
        while (end < n && !is_separator(run[end])) {
            end++;
        }
        if (has_letter(run + at, end - at)) {
            KM_TRY(km__kb_text_add(query, "\"", 1, err));
            KM_TRY(km__kb_text_add(query, run + at, end - at, err));
            KM_TRY(km__kb_text_add(query, "\" ", 2, err));
        }
        at = end + 1;
    }
    return KM_OK;
}

static km_status add_cjk(km__kb_text *query, const char *run, size_t n, km_error *err) {
    uint32_t code;
    bool single = decode(&code, run, n) == n;
    KM_TRY(km__kb_text_add(query, "\"", 1, err));
    KM_TRY(add_pairs(query, run, n, false, err));
    return single ? km__kb_text_add(query, "\"* ", 3, err) : km__kb_text_add(query, "\" ", 2, err);
}

static km_status make_query(km__kb_text *query, const char *text, km_error *err) {
    size_t n = strlen(text);
    if (!km_utf8_valid(text, n)) {
        return KM_SET(err, KM_EINVAL, "the text to search is not valid UTF-8");
    }
    for (size_t at = 0; at < n;) {
        size_t length = run_length(text + at, n - at, false);
        KM_TRY(add_words(query, text + at, length, err));
        at += length;
        length = run_length(text + at, n - at, true);
        if (length > 0) {
            KM_TRY(add_cjk(query, text + at, length, err));
        }
        at += length;
    }
    if (query->n == 0) {
        return KM_SET(err, KM_EINVAL, "there is no word to search for");
    }
    return KM_OK;
}

/* The title counts three times as much as the body. */
static const char search_sql[] =
    "SELECT d.kind, d.ref, s.title, substr(s.body, 1, 240) AS excerpt,"
    " -bm25(search_index, 3.0, 1.0) AS score"
    " FROM search_index JOIN search_documents AS d ON d.id = search_index.rowid"
    " JOIN searchable AS s ON s.kind = d.kind AND s.ref = d.ref"
    " WHERE search_index MATCH ?1 AND (?2 IS NULL OR d.kind = ?2)"
    " ORDER BY score DESC, d.id LIMIT ?3";

km_status km_kb_search(km_table **out, km_kb *kb, const char *text, const char *kind, int64_t limit,
                       km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    km__kb_text query = {kb->ctx, NULL, 0, 0};
    *out = NULL;
    KM_TRY(km__kb_ready(kb, err));
    if (limit < 0) {
        return KM_SET(err, KM_EINVAL, "a limit of %lld rows", (long long)limit);
    }
    KM_GO(make_query(&query, text, err));
    KM_GO(km__kb_prepare(&stmt, kb, search_sql, err));
    KM_GO(km__kb_bind_text(kb, stmt, 1, query.data, (int64_t)query.n, err));
    KM_GO(km__kb_bind_text(kb, stmt, 2, kind, -1, err));
    KM_GO(km__kb_bind_int(kb, stmt, 3, limit > 0 ? limit : DEFAULT_LIMIT, err));
    KM_GO(km__kb_collect(out, kb, stmt, limit > 0 ? limit : DEFAULT_LIMIT, err));
done:
    sqlite3_finalize(stmt);
    km__kb_text_free(&query);
    return status;
}
