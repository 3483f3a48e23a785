/* merge_ledger.c: the ledger of another base.
 *
 * A prediction or unit is brought in through the same door as one that is frozen here, from its
 * canonical text: the digest is computed anew and our rules are asked. A freezing that both files
 * have is as old as the older of the two. A verdict enters when its run may count for it here.
 */

#include <string.h>

#include "kb_private.h"

/* Keep one text of a row (digest, content, model, added) under its digest. */
typedef km_status (*put_fn)(char digest[65], km_kb *kb, const json_t *text, const char *model,
                            km_error *err);

static km_status put_prediction(char digest[65], km_kb *kb, const json_t *text, const char *model,
                                km_error *err) {
    (void)model;
    return km__kb_put_prediction(digest, kb, text, err);
}

static km_status put_row(km_kb *kb, sqlite3_stmt *row, put_fn put, const char *path,
                         km_error *err) {
    char digest[65] = "";
    const char *given = (const char *)sqlite3_column_text(row, 0);
    const char *model = (const char *)sqlite3_column_text(row, 2);
    json_t *text = json_stringn((const char *)sqlite3_column_text(row, 1),
                                (size_t)sqlite3_column_bytes(row, 1));
    KM_TRY(km_kb_begin(kb, err));
    km_status status = put(digest, kb, text, model == NULL ? "" : model, err);
    json_decref(text);
    if (status == KM_OK && (given == NULL || strcmp(given, digest) != 0)) {
        status =
            KM_SET(err, KM_EFORMAT, "%s: a text of the ledger does not match its digest", path);
    }
    return km__kb_end(kb, status, err);
}

/* Every row of `sql`; those our rules refuse are listed. */
static km_status merge_texts(km_kb *kb, const char *what, const char *sql, put_fn put,
                             const char *path, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    int64_t n_new = 0;
    KM_GO(km__kb_prepare(&stmt, kb, sql, err));
    for (;;) {
        KM_GO(km__kb_step(&row, kb, stmt, err));
        if (!row) {
            break;
        }
        km_error reason = KM_ERROR_INIT;
        km_status outcome = put_row(kb, stmt, put, path, &reason);
        if (outcome == KM_EINVAL) {
            KM_GO(km__kb_merge_note(kb, what, "refused", 1,
                                    (const char *)sqlite3_column_text(stmt, 0), reason.message,
                                    err));
        } else if (outcome != KM_OK) {
            KM_FAIL(err, outcome, "%s", reason.message);
        } else {
            n_new++;
        }
    }
    KM_GO(km__kb_merge_added(kb, what, n_new, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

static const char list_changed[] =
    "INSERT INTO temp.report SELECT 'predictions', 'differs', 1, o.id || ' ' || o.version,"
    " o.digest, t.digest FROM temp.their_predictions AS t JOIN predictions AS o"
    " ON o.id = t.id AND o.version = t.version WHERE o.digest <> t.digest";
static const char new_predictions[] =
    "SELECT t.digest, t.content, NULL FROM temp.their_predictions AS t WHERE NOT EXISTS"
    " (SELECT 1 FROM predictions AS o WHERE o.digest = t.digest"
    "  OR (o.id = t.id AND o.version = t.version)) ORDER BY t.id, t.version";
static const char keep_times[] =
    "UPDATE predictions SET added = t.added FROM temp.their_predictions AS t"
    " WHERE t.digest = predictions.digest AND t.added < predictions.added";
static const char new_units[] = "SELECT t.digest, t.content, t.model FROM temp.their_units AS t"
                                " WHERE t.digest NOT IN (SELECT digest FROM units)"
                                " ORDER BY t.digest";

static const char add_freezings[] =
    "INSERT INTO freezings (prediction, unit, basis, frozen)"
    " SELECT t.prediction, t.unit, t.basis, t.frozen FROM temp.their_freezings AS t"
    " JOIN predictions AS p ON p.digest = t.prediction JOIN units AS u ON u.digest = t.unit"
    " ORDER BY t.id ON CONFLICT DO NOTHING";
static const char earlier_freezings[] =
    "UPDATE freezings SET frozen = t.frozen FROM temp.their_freezings AS t"
    " WHERE t.prediction = freezings.prediction AND t.unit = freezings.unit"
    " AND t.basis = freezings.basis AND t.frozen < freezings.frozen";

static km_status merge_freezings(km_kb *kb, km_error *err) {
    KM_TRY(km__kb_exec(kb, add_freezings, err));
    KM_TRY(km__kb_merge_added(kb, "freezings", sqlite3_changes(kb->db), err));
    KM_TRY(km__kb_exec(kb, earlier_freezings, err));
    int64_t n = sqlite3_changes(kb->db);
    return n > 0 ? km__kb_merge_note(kb, "freezings", "earlier", n, NULL, NULL, err) : KM_OK;
}

#define SAME_VERDICT                                                                               \
    " FROM temp.their_verdicts AS t JOIN temp.their_freezings AS tf ON tf.id = t.freezing"         \
    " JOIN freezings AS f ON f.prediction = tf.prediction AND f.unit = tf.unit"                    \
    "  AND f.basis = tf.basis JOIN temp.run_map AS x ON x.theirs = t.run"                          \
    " LEFT JOIN verdicts AS o ON o.freezing = f.id AND o.run = x.ours"
static const char list_verdicts[] =
    "INSERT INTO temp.report SELECT 'verdicts', 'differs', 1, o.id,"
    " json_array(o.word, o.estimate, o.low, o.high, o.n, o.p_value),"
    " json_array(t.word, t.estimate, t.low, t.high, t.n, t.p_value)" SAME_VERDICT
    " WHERE (o.word, o.estimate, o.low, o.high, o.n, o.p_value) IS NOT"
    "       (t.word, t.estimate, t.low, t.high, t.n, t.p_value) AND o.id IS NOT NULL";
static const char new_verdicts[] =
    "SELECT t.id, f.id, x.ours, t.word || ' ' || tf.prediction" SAME_VERDICT
    " WHERE o.id IS NULL ORDER BY t.id";
static const char add_verdict[] =
    "INSERT INTO verdicts (freezing, run, word, estimate, low, high, n, p_value, rows, command,"
    " judged) SELECT ?2, ?3, word, estimate, low, high, n, p_value, rows, command, judged"
    " FROM temp.their_verdicts WHERE id = ?1";

/* `row` stands on a row of new_verdicts. */
static km_status merge_verdict(int64_t *n_new, km_kb *kb, sqlite3_stmt *row, sqlite3_stmt *insert,
                               km_error *err) {
    km_error reason = KM_ERROR_INIT;
    int64_t freezing = sqlite3_column_int64(row, 1), run = sqlite3_column_int64(row, 2);
    km_status outcome = km__kb_check_counts(kb, freezing, run, &reason);
    if (outcome == KM_EINVAL) {
        return km__kb_merge_note(kb, "verdicts", "refused", 1,
                                 (const char *)sqlite3_column_text(row, 3), reason.message, err);
    }
    if (outcome != KM_OK) {
        return KM_SET(err, outcome, "%s", reason.message);
    }
    KM_TRY(km__kb_bind_int(kb, insert, 1, sqlite3_column_int64(row, 0), err));
    KM_TRY(km__kb_bind_int(kb, insert, 2, freezing, err));
    KM_TRY(km__kb_bind_int(kb, insert, 3, run, err));
    KM_TRY(km__kb_run(kb, insert, err));
    (*n_new)++;
    return KM_OK;
}

static km_status merge_verdicts(km_kb *kb, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL, *insert = NULL;
    bool row = false;
    int64_t n_new = 0;
    KM_GO(km__kb_exec(kb, list_verdicts, err));
    KM_GO(km__kb_prepare(&stmt, kb, new_verdicts, err));
    KM_GO(km__kb_prepare(&insert, kb, add_verdict, err));
    for (;;) {
        KM_GO(km__kb_step(&row, kb, stmt, err));
        if (!row) {
            break;
        }
        KM_GO(merge_verdict(&n_new, kb, stmt, insert, err));
    }
    KM_GO(km__kb_merge_added(kb, "verdicts", n_new, err));
done:
    sqlite3_finalize(stmt);
    sqlite3_finalize(insert);
    return status;
}

km_status km__kb_merge_ledger(km_kb *kb, const char *path, km_error *err) {
    KM_TRY(km__kb_exec(kb, list_changed, err));
    KM_TRY(merge_texts(kb, "predictions", new_predictions, put_prediction, path, err));
    KM_TRY(km__kb_exec(kb, keep_times, err));
    KM_TRY(merge_texts(kb, "units", new_units, km__kb_put_unit, path, err));
    KM_TRY(merge_freezings(kb, err));
    return merge_verdicts(kb, err);
}
