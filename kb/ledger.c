/* ledger.c: predictions frozen for a unit, and the verdicts that runs give.
 *
 * A prediction and a unit arrive as their canonical JSON text; what is kept as their digest is
 * computed here, of exactly those bytes, so that neither can change under its name. What may count
 * for what is decided here too: a prediction bears on nodes of its measure alone; under the
 * modular-region and connection hypotheses it must be an intervention with matched random
 * controls, which have to be in the run's rows; and a run counts when it and all it measured came
 * after the freezing.
 */

#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "kb_private.h"

#define N_FIELDS(fields) ((int)(sizeof(fields) / sizeof((fields)[0])))
#define NOW "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"

static const km__kb_field verdict_fields[] = {
    {"word", KM__KB_TEXT, true},  {"estimate", KM__KB_REAL, false}, {"low", KM__KB_REAL, false},
    {"high", KM__KB_REAL, false}, {"n", KM__KB_INT, true},          {"p_value", KM__KB_REAL, false},
    {"rows", KM__KB_TEXT, true},  {"command", KM__KB_TEXT, false},
};

/* ---- texts and their digests ---- */

typedef struct content {
    json_t *object; /* owned */
    const char *text;
    size_t n;
    char digest[65];
} content;

/* Parse a canonical text and digest it; `value` keeps the text. */
static km_status read_content(content *out, const char *what, const json_t *value, km_error *err) {
    km_sha256 sha;
    unsigned char digest[32];
    out->object = NULL;
    if (!json_is_string(value)) {
        return KM_SET(err, KM_EINVAL, "%s must be the text of a JSON object", what);
    }
    out->text = json_string_value(value);
    out->n = json_string_length(value);
    KM_TRY(km__kb_parse(&out->object, what, out->text, out->n, false, err));
    km_sha256_init(&sha);
    km_sha256_update(&sha, out->text, out->n);
    km_sha256_final(&sha, digest);
    km_sha256_hex(out->digest, digest);
    return KM_OK;
}

static const char *text_of(const content *of, const char *name) {
    const char *text = json_string_value(json_object_get(of->object, name));
    return text == NULL ? "" : text;
}

/* Run a statement with up to four texts. */
static km_status run_texts(km_kb *kb, const char *sql, const char *const *texts, int n,
                           km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    KM_GO(km__kb_prepare(&stmt, kb, sql, err));
    for (int i = 0; i < n; i++) {
        KM_GO(km__kb_bind_text(kb, stmt, i + 1, texts[i], -1, err));
    }
    KM_GO(km__kb_run(kb, stmt, err));
done:
    sqlite3_finalize(stmt);
    return status;
}

/* ---- what a prediction may be about ---- */

static const char below_mechanism[] =
    "SELECT 1 FROM nodes AS n JOIN nodes AS h ON n.tree_enter BETWEEN h.tree_enter AND h.tree_leave"
    " WHERE n.id = ?1 AND h.id IN ('hyp-modular-region', 'hyp-connection')";

static km_status check_node(km_kb *kb, const content *p, const char *node, km_error *err) {
    int64_t one = 0;
    bool found = false;
    bool tested = text_of(p, "not_testable")[0] == '\0';
    const char *sql = tested ? "SELECT 1 FROM measure_nodes WHERE node = ?1 AND measure = ?2"
                             : "SELECT 1 FROM nodes WHERE id = ?1 AND ?2 IS NOT NULL";
    KM_TRY(km__kb_scalar(&one, &found, kb, sql, node, text_of(p, "measure"), err));
    if (!found) {
        return KM_SET(err, KM_EINVAL,
                      "the measure '%.80s' is not declared to bear on the node '%.80s' (see the "
                      "tables measures and measure_nodes)",
                      text_of(p, "measure"), node);
    }
    KM_TRY(km__kb_scalar(&one, &found, kb, below_mechanism, node, NULL, err));
    bool controlled = strcmp(text_of(p, "kind"), "intervention") == 0 &&
                      json_array_size(json_object_get(p->object, "controls")) > 0;
    if (tested && found && !controlled) {
        return KM_SET(err, KM_EINVAL,
                      "the node '%.80s' accepts interventions with matched random controls alone "
                      "(kind 'intervention', and their columns in 'controls')",
                      node);
    }
    return KM_OK;
}

static km_status check_nodes(km_kb *kb, const content *p, km_error *err) {
    const json_t *nodes = json_object_get(p->object, "nodes");
    size_t i;
    json_t *node;
    if (json_array_size(nodes) == 0) {
        return KM_SET(err, KM_EINVAL, "'nodes' must be an array of node ids");
    }
    json_array_foreach(nodes, i, node) {
        if (!json_is_string(node)) {
            return KM_SET(err, KM_EINVAL, "nodes[%zu] must be a text", i);
        }
        KM_TRY(check_node(kb, p, json_string_value(node), err));
    }
    return KM_OK;
}

static km_status check_unchanged(km_kb *kb, const content *p, km_error *err) {
    char name[200];
    int64_t one = 0;
    bool found = false;
    snprintf(name, sizeof name, "%.150s/%lld", text_of(p, "id"),
             (long long)json_integer_value(json_object_get(p->object, "version")));
    KM_TRY(
        km__kb_scalar(&one, &found, kb,
                      "SELECT 1 FROM predictions WHERE id || '/' || version = ?1 AND digest <> ?2",
                      name, p->digest, err));
    if (found) {
        return KM_SET(err, KM_EINVAL,
                      "it was frozen with other content under this version (%s); a changed "
                      "prediction needs a new version",
                      name);
    }
    return KM_OK;
}

/* ---- freezing ---- */

static const char insert_prediction[] =
    "INSERT INTO predictions (digest, id, version, statement, measure, statistic, direction,"
    " no_effect, smallest, unit, minimum_n, n_unit, kind, family, falsified_by, not_testable,"
    " content, added)"
    " SELECT ?1, c ->> 'id', c ->> 'version', c ->> 'statement', nullif(c ->> 'measure', ''),"
    " nullif(c ->> 'statistic', ''), c ->> 'direction', c ->> 'null', c ->> 'smallest_effect',"
    " c ->> 'unit', c ->> 'minimum_n', c ->> 'n_unit', c ->> 'kind', c ->> 'family',"
    " c ->> 'falsified_by', c ->> 'not_testable', c, " NOW " FROM (SELECT ?2 AS c)"
    " WHERE true ON CONFLICT (digest) DO NOTHING";
static const char insert_nodes[] = "INSERT OR IGNORE INTO prediction_nodes (prediction, node)"
                                   " SELECT ?1, value FROM json_each(?2, '$.nodes')";
static const char insert_rivals[] = "INSERT OR IGNORE INTO rivals (prediction, position, rival)"
                                    " SELECT ?1, key, value FROM json_each(?2, '$.rivals')";
static const char insert_unit[] =
    "INSERT INTO units (digest, model, fingerprint, precision, prompts, facts, recipe, content)"
    " SELECT ?1, ?3, c ->> 'fingerprint', c ->> 'precision', c ->> 'prompts', c ->> 'facts',"
    " c -> 'recipe', c FROM (SELECT ?2 AS c) WHERE true ON CONFLICT (digest) DO NOTHING";
static const char insert_freezing[] =
    "INSERT INTO freezings (prediction, unit, basis, frozen) VALUES (?1, ?2, ?3, " NOW ")"
    " ON CONFLICT (prediction, unit, basis) DO NOTHING";

km_status km__kb_put_prediction(char digest[65], km_kb *kb, const json_t *text, km_error *err) {
    km_status status = KM_OK;
    content p;
    KM_GO(read_content(&p, "prediction", text, err));
    KM_GO(check_unchanged(kb, &p, err));
    KM_GO(check_nodes(kb, &p, err));
    const char *const row[] = {p.digest, p.text};
    KM_GO(run_texts(kb, insert_prediction, row, 2, err));
    KM_GO(run_texts(kb, insert_nodes, row, 2, err));
    KM_GO(run_texts(kb, insert_rivals, row, 2, err));
    memcpy(digest, p.digest, sizeof p.digest);
done:
    if (status != KM_OK && p.object != NULL) {
        km_error_prefix(err, "prediction '%.80s'", text_of(&p, "id"));
    }
    json_decref(p.object);
    return status;
}

km_status km__kb_put_unit(char digest[65], km_kb *kb, const json_t *text, const char *model,
                          km_error *err) {
    km_status status = KM_OK;
    content unit;
    KM_GO(read_content(&unit, "unit", text, err));
    const char *const row[] = {unit.digest, unit.text, model};
    KM_GO(run_texts(kb, insert_unit, row, 3, err));
    memcpy(digest, unit.digest, sizeof unit.digest);
done:
    json_decref(unit.object);
    return status;
}

static km_status freeze_one(int64_t *n_new, km_kb *kb, const json_t *text, const char *unit,
                            const char *basis, km_error *err) {
    char digest[65];
    KM_TRY(km__kb_put_prediction(digest, kb, text, err));
    const char *const freezing[] = {digest, unit, basis};
    KM_TRY(run_texts(kb, insert_freezing, freezing, 3, err));
    *n_new += sqlite3_changes(kb->db);
    return KM_OK;
}

static km_status freeze_all(int64_t *n_new, km_kb *kb, const json_t *request, km_error *err) {
    char unit[65];
    size_t i;
    json_t *text;
    const char *model = json_string_value(json_object_get(request, "model"));
    const char *basis = json_string_value(json_object_get(request, "basis"));
    const json_t *predictions = json_object_get(request, "predictions");
    if (model == NULL || !json_is_array(predictions)) {
        return KM_SET(err, KM_EINVAL, "'model' must be a text and 'predictions' an array");
    }
    KM_TRY(km__kb_put_unit(unit, kb, json_object_get(request, "unit"), model, err));
    json_array_foreach(predictions, i, text) {
        KM_TRY(freeze_one(n_new, kb, text, unit, basis == NULL ? "before" : basis, err));
    }
    return KM_OK;
}

km_status km_kb_freeze(int64_t *out, km_kb *kb, const char *json, size_t n, km_error *err) {
    json_t *request = NULL;
    int64_t n_new = 0;
    KM_TRY(km__kb_begin_with(&request, kb, "freezing", json, n, false, err));
    km_status status = freeze_all(&n_new, kb, request, err);
    json_decref(request);
    status = km__kb_end(kb, status, err);
    if (out != NULL) {
        *out = status == KM_OK ? n_new : 0;
    }
    return status;
}

/* ---- verdicts ---- */

/* ?1: freezing, ?2: run. Each row says why the run cannot count; none when it can. */
static const char why_not[] =
    "WITH f AS (SELECT f.*, p.measure, p.content, u.fingerprint FROM freezings AS f"
    "           JOIN predictions AS p ON p.digest = f.prediction"
    "           JOIN units AS u ON u.digest = f.unit WHERE f.id = ?1),"
    " r AS (SELECT r.*, m.fingerprint FROM runs AS r LEFT JOIN models AS m ON m.id = r.model"
    "       WHERE r.id = ?2)"
    " SELECT 'it is of the measure ' || r.measure || ', not ' || f.measure FROM f, r"
    "  WHERE f.measure <> r.measure"
    " UNION ALL SELECT 'it is of another model than the unit' FROM f, r"
    "  WHERE r.fingerprint <> f.fingerprint"
    " UNION ALL SELECT 'it was ' || r.status FROM r WHERE r.status IN ('cancelled', 'failed')"
    " UNION ALL SELECT 'it began at ' || r.started || ', before the prediction was frozen at '"
    "  || f.frozen FROM f, r WHERE f.basis = 'before' AND r.started < f.frozen"
    " UNION ALL SELECT 'it rests on rows measured at ' || min(c.stored) || ', before the prediction"
    " was frozen at ' || f.frozen FROM f JOIN run_chunks AS rc ON rc.run = ?2"
    "  JOIN chunks AS c ON c.id = rc.chunk WHERE f.basis = 'before' AND c.stored < f.frozen"
    "  HAVING count(*) > 0"
    " UNION ALL SELECT 'its rows lack the matched random control ' || w.value"
    "  FROM f, json_each(f.content, '$.controls') AS w WHERE NOT EXISTS ("
    "   SELECT 1 FROM run_chunks AS rc JOIN measurements AS m ON m.chunk = rc.chunk"
    "   WHERE rc.run = ?2 AND m.data ->> ('$.\"' || w.value || '\"') IS NOT NULL)";

static km_status check_run(km_kb *kb, int64_t run, km_error *err) {
    char id[32];
    int64_t one = 0;
    bool found = false;
    snprintf(id, sizeof id, "%lld", (long long)run);
    KM_TRY(km__kb_scalar(&one, &found, kb, "SELECT 1 FROM runs WHERE id = CAST(?1 AS INTEGER)", id,
                         NULL, err));
    return found ? KM_OK : KM_SET(err, KM_ENOTFOUND, "there is no run %lld", (long long)run);
}

km_status km__kb_check_counts(km_kb *kb, int64_t freezing, int64_t run, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    KM_GO(km__kb_prepare(&stmt, kb, why_not, err));
    KM_GO(km__kb_bind_int(kb, stmt, 1, freezing, err));
    KM_GO(km__kb_bind_int(kb, stmt, 2, run, err));
    KM_GO(km__kb_step(&row, kb, stmt, err));
    if (row) {
        KM_FAIL(err, KM_EINVAL, "run %lld cannot count: %.200s", (long long)run,
                (const char *)sqlite3_column_text(stmt, 0));
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

/* The freezing a verdict is about; a prediction frozen before its runs goes before a release. */
static km_status find_freezing(int64_t *out, km_kb *kb, const json_t *verdict, km_error *err) {
    bool found = false;
    const char *prediction = json_string_value(json_object_get(verdict, "prediction"));
    const char *unit = json_string_value(json_object_get(verdict, "unit"));
    const char *basis = json_string_value(json_object_get(verdict, "basis"));
    char key[160];
    if (prediction == NULL || unit == NULL || strlen(prediction) != 64) {
        return KM_SET(err, KM_EINVAL, "'prediction' and 'unit' must be digests");
    }
    snprintf(key, sizeof key, "%s/%s", prediction, basis == NULL ? "before" : basis);
    KM_TRY(km__kb_scalar(out, &found, kb,
                         "SELECT id FROM freezings WHERE prediction = substr(?1, 1, 64)"
                         " AND basis = substr(?1, 66) AND unit = ?2",
                         key, unit, err));
    if (!found) {
        return KM_SET(err, KM_ENOTFOUND,
                      "the prediction was not frozen for this unit: freeze it before the run");
    }
    return KM_OK;
}

static const char insert_verdict[] =
    "INSERT INTO verdicts (word, estimate, low, high, n, p_value, rows, command, freezing, run,"
    " judged) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, " NOW ")"
    " ON CONFLICT (freezing, run) DO NOTHING";
static const char same_verdict[] =
    "SELECT id FROM verdicts WHERE word IS ?1 AND estimate IS ?2 AND low IS ?3 AND high IS ?4"
    " AND n IS ?5 AND p_value IS ?6 AND ?7 IS NOT NULL AND (?8 IS NULL OR true)"
    " AND freezing = ?9 AND run = ?10";

/* Prepare and bind one of the two statements above. */
static km_status bind_verdict(sqlite3_stmt **out, km_kb *kb, const char *sql, json_t *row,
                              int64_t freezing, int64_t run, km_error *err) {
    const int n = N_FIELDS(verdict_fields);
    KM_TRY(km__kb_prepare(out, kb, sql, err));
    KM_TRY(km__kb_bind_record(kb, *out, verdict_fields, n, row, "verdict", -1, err));
    KM_TRY(km__kb_bind_int(kb, *out, n + 1, freezing, err));
    return km__kb_bind_int(kb, *out, n + 2, run, err);
}

/* Insert; what is there already for the same run must say the same. */
static km_status insert(int64_t *out, km_kb *kb, json_t *row, int64_t freezing, int64_t run,
                        km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL, *same = NULL;
    bool found = false;
    KM_GO(bind_verdict(&stmt, kb, insert_verdict, row, freezing, run, err));
    KM_GO(km__kb_run(kb, stmt, err));
    KM_GO(bind_verdict(&same, kb, same_verdict, row, freezing, run, err));
    KM_GO(km__kb_step(&found, kb, same, err));
    if (!found) {
        KM_FAIL(err, KM_EINVAL,
                "run %lld has another verdict on this prediction already; verdicts are not "
                "replaced: a new run adds one",
                (long long)run);
    }
    *out = sqlite3_column_int64(same, 0);
done:
    sqlite3_finalize(same);
    sqlite3_finalize(stmt);
    return status;
}

km_status km_kb_put_verdict(int64_t *out, km_kb *kb, int64_t run, const char *json, size_t n,
                            km_error *err) {
    static const char *const keys[] = {"prediction", "unit", "basis"};
    km_status status = KM_OK;
    json_t *verdict = NULL;
    int64_t freezing = 0, id = 0;
    KM_TRY(km__kb_begin_with(&verdict, kb, "verdict", json, n, false, err));
    KM_GO(find_freezing(&freezing, kb, verdict, err));
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        (void)json_object_del(verdict, keys[i]);
    }
    KM_GO(check_run(kb, run, err));
    KM_GO(km__kb_check_counts(kb, freezing, run, err));
    KM_GO(insert(&id, kb, verdict, freezing, run, err));
done:
    json_decref(verdict);
    status = km__kb_end(kb, status, err);
    *out = status == KM_OK ? id : 0;
    return status;
}
