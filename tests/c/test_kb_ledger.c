/* test_kb_ledger.c: predictions frozen for a unit, what may count for them, verdicts. */
#include "kb_test.h"

/* A mechanism below one of the two hypotheses that accept controlled interventions alone. */
static const char taxonomy[] =
    "{\"version\":1,\"about\":\"test\",\"nodes\":["
    "{\"id\":\"root\",\"parent\":null,\"name\":\"Root\",\"kind\":\"aspect\",\"summary\":\"All\","
    "\"evidence\":\"paper\"},"
    "{\"id\":\"memorization\",\"parent\":\"root\",\"name\":\"M\",\"kind\":\"mechanism\","
    "\"summary\":\"Facts\",\"evidence\":\"paper\"},"
    "{\"id\":\"hyp-modular-region\",\"parent\":\"memorization\",\"name\":\"H1\","
    "\"kind\":\"hypothesis\",\"summary\":\"Modules\",\"evidence\":\"paper\"},"
    "{\"id\":\"neurons\",\"parent\":\"hyp-modular-region\",\"name\":\"N\",\"kind\":\"mechanism\","
    "\"summary\":\"Neurons\",\"evidence\":\"paper\"}],"
    "\"works\":[],\"edges\":[],\"seed_places\":{},\"measurements\":["
    "{\"id\":\"memorization.recall\",\"module\":\"m\",\"nodes\":[\"memorization\"],"
    "\"status\":\"available\"},"
    "{\"id\":\"neurons\",\"module\":\"i\",\"nodes\":[\"neurons\"],\"status\":\"available\"}]}";

#define PREDICTION(id, version, measure, node, smallest, more)                                     \
    "{'controls':[],'direction':'above','falsified_by':'Below.','family':'confirmatory','id':'" id \
    "','kind':'observation','measure':'" measure "','minimum_n':5,'n_unit':'facts','nodes':"       \
    "['" node "'],'not_testable':'','null':0,'rivals':['luck','size'],'smallest_effect':" smallest \
    ",'statement':'Above.','statistic':'gain','unit':'share','version':" version more "}"
static const char above[] =
    PREDICTION("above", "1", "memorization.recall", "memorization", "0.1", "");
static const char unit_text[] =
    "{'facts':'f','fingerprint':'aaaa','precision':'F32','prompts':'p','recipe':{'k':1}}";

/* Single quotes to double ones. */
static void quote(char *out, size_t n, const char *text) {
    assert_true(strlen(text) < n);
    snprintf(out, n, "%s", text);
    for (char *at = out; *at != '\0'; at++) {
        *at = *at == '\'' ? '"' : *at;
    }
}

static void hex_digest(char out[65], const char *text) {
    unsigned char digest[32];
    km_sha256 sha;
    km_sha256_init(&sha);
    km_sha256_update(&sha, text, strlen(text));
    km_sha256_final(&sha, digest);
    km_sha256_hex(out, digest);
}

/* Freeze a text as it stands, after its quotes were exchanged. */
static km_status freeze_as(int64_t *n_new, km_kb *kb, const char *prediction, const char *basis,
                           km_error *err) {
    char p[1000], u[300];
    quote(p, sizeof p, prediction);
    quote(u, sizeof u, unit_text);
    json_t *request = json_pack("{s:s, s:s, s:[s], s:s}", "model", "tiny", "unit", u, "predictions",
                                p, "basis", basis);
    char *json = json_dumps(request, 0);
    km_status status = km_kb_freeze(n_new, kb, json, strlen(json), err);
    free(json);
    json_decref(request);
    return status;
}

static km_status freeze(int64_t *n_new, km_kb *kb, const char *prediction, km_error *err) {
    return freeze_as(n_new, kb, prediction, "before", err);
}

static km_status judge_as(int64_t *id, km_kb *kb, int64_t run, const char *prediction,
                          const char *basis, double estimate, km_error *err) {
    char p[1000], u[300], p_digest[65], u_digest[65];
    quote(p, sizeof p, prediction);
    quote(u, sizeof u, unit_text);
    hex_digest(p_digest, p);
    hex_digest(u_digest, u);
    json_t *verdict = json_pack("{s:s, s:s, s:s, s:s, s:f, s:f, s:f, s:i, s:s}", "prediction",
                                p_digest, "unit", u_digest, "basis", basis, "word", "consistent",
                                "estimate", estimate, "low", 0.2, "high", 0.4, "n", 9, "rows", "k");
    char *json = json_dumps(verdict, 0);
    km_status status = km_kb_put_verdict(id, kb, run, json, strlen(json), err);
    free(json);
    json_decref(verdict);
    return status;
}

static km_status judge(int64_t *id, km_kb *kb, int64_t run, const char *prediction, km_error *err) {
    return judge_as(id, kb, run, prediction, "before", 0.3, err);
}

static km_kb *open_ledger(fixture *f) {
    static const char model[] = "{\"fingerprint\":\"aaaa\",\"name\":\"tiny\"}";
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_kb(f);
    int64_t id = 0;
    km_test_ok(km_kb_load_taxonomy(kb, taxonomy, strlen(taxonomy), &err), &err);
    km_test_ok(km_kb_put_model(&id, kb, model, strlen(model), &err), &err);
    return kb;
}

static int64_t begin(km_kb *kb, const char *measure, const char *more) {
    km_error err = KM_ERROR_INIT;
    char json[200];
    int64_t run = 0;
    snprintf(json, sizeof json, "{\"measure\":\"%s\",\"version\":1,\"parameters\":{}%s}", measure,
             more);
    km_test_ok(km_kb_begin_run(&run, kb, json, strlen(json), &err), &err);
    return run;
}

static void test_freeze(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_ledger(f);
    char p[1000], digest[65], sql[300];
    int64_t n = 0;
    km_test_ok(freeze(&n, kb, above, &err), &err);
    assert_int_equal(n, 1);
    quote(p, sizeof p, above);
    hex_digest(digest, p);
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM predictions JOIN prediction_nodes ON prediction = digest"
             " WHERE digest = '%s' AND version = 1 AND smallest = 0.1 AND minimum_n = 5"
             " AND measure = 'memorization.recall' AND node = 'memorization'",
             digest);
    assert_int_equal(count(kb, sql), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM rivals WHERE position = 1 AND rival = 'size'"),
                     1);
    assert_int_equal(count(kb, "SELECT count(*) FROM units WHERE fingerprint = 'aaaa'"
                               " AND model = 'tiny' AND recipe = '{\"k\":1}'"),
                     1);
    /* Again: the first time stays. A release is another freezing of the same. */
    km_test_ok(freeze(&n, kb, above, &err), &err);
    assert_int_equal(n, 0);
    km_test_ok(freeze_as(NULL, kb, above, "release", &err), &err);
    assert_int_equal(count(kb, "SELECT count(*) FROM freezings"), 2);
    assert_int_equal(count(kb, "SELECT count(*) FROM predictions"), 1);
    /* Changed under its name it is refused; as a new version it is another one. */
    static const char changed[] =
        PREDICTION("above", "1", "memorization.recall", "memorization", "0.01", "");
    static const char next[] =
        PREDICTION("above", "2", "memorization.recall", "memorization", "0.01", "");
    km_test_fails(freeze(&n, kb, changed, &err), KM_EINVAL, &err, "needs a new version");
    assert_int_equal(n, 0);
    km_test_ok(freeze(&n, kb, next, &err), &err);
    assert_int_equal(n, 1);
    km_kb_close(kb);
}

static void test_refuse_predictions(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_ledger(f);
    int64_t n = 0;
    static const char *const wrong[][2] = {
        {PREDICTION("a", "1", "memorization.recall", "neurons", "0.1", ""), "not declared to bear"},
        {PREDICTION("a", "1", "memorization.recall", "nowhere", "0.1", ""), "not declared to bear"},
        {PREDICTION("a", "1", "nothing", "memorization", "0.1", ""), "not declared to bear"},
        {PREDICTION("a", "1", "neurons", "neurons", "0.1", ""), "interventions with matched"},
        {PREDICTION("a", "1", "memorization.recall", "memorization", "'x'", ""), "prediction 'a'"},
        {PREDICTION("a", "0", "memorization.recall", "memorization", "0.1", ""), "prediction 'a'"},
        {"{'id':'a','version':1}", "'nodes' must be an array"},
        {"{'id':'a','version':1,'nodes':[3]}", "nodes[0] must be a text"},
        {"[1]", "must be a JSON object"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        km_test_fails(freeze(&n, kb, wrong[i][0], &err), KM_EINVAL, &err, wrong[i][1]);
        assert_int_equal(n, 0);
    }
    static const char *const bad[] = {"{\"model\":\"m\"}", "{\"model\":3,\"unit\":\"{}\"}", "[]"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        km_test_fails(km_kb_freeze(&n, kb, bad[i], strlen(bad[i]), &err), KM_EINVAL, &err, "");
    }
    assert_int_equal(count(kb, "SELECT (SELECT count(*) FROM predictions)"
                               " + (SELECT count(*) FROM units)"),
                     0);
    /* What cannot be tested may stand anywhere, as long as it says why. */
    static const char untestable[] =
        "{'controls':[],'direction':'above','falsified_by':'x','family':'exploratory','id':'h1',"
        "'kind':'observation','measure':'','minimum_n':1,'n_unit':'','nodes':['neurons'],"
        "'not_testable':'too large','null':0,'rivals':[],'smallest_effect':0,'statement':'s',"
        "'statistic':'','unit':'','version':1}";
    km_test_ok(freeze(&n, kb, untestable, &err), &err);
    assert_int_equal(count(kb, "SELECT count(*) FROM predictions WHERE measure IS NULL"), 1);
    km_kb_close(kb);
}

static void test_verdicts(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_ledger(f);
    int64_t id = 0, again = 0, second = 0;
    int64_t run = begin(kb, "memorization.recall", "");
    km_test_fails(judge(&id, kb, run, above, &err), KM_ENOTFOUND, &err, "not frozen");
    km_test_ok(freeze(NULL, kb, above, &err), &err);
    run = begin(kb, "memorization.recall", ",\"model\":1,\"started\":\"9999-01-01\"");
    km_test_ok(judge(&id, kb, run, above, &err), &err);
    km_test_ok(judge(&again, kb, run, above, &err), &err);
    assert_int_equal(again, id);
    /* The same run cannot say something else; a new one adds a verdict, and the old one stays. */
    km_test_fails(judge_as(&again, kb, run, above, "before", 0.31, &err), KM_EINVAL, &err,
                  "not replaced");
    assert_int_equal(again, 0);
    int64_t later = begin(kb, "memorization.recall", ",\"started\":\"9999-01-02\"");
    km_test_ok(judge_as(&second, kb, later, above, "before", 0.31, &err), &err);
    assert_int_not_equal(second, id);
    assert_int_equal(count(kb, "SELECT count(*) FROM ledger WHERE word = 'consistent'"
                               " AND prediction = 'above' AND model = 'tiny' AND low = 0.2"
                               " AND unit = 'share' AND n_unit = 'facts' AND basis = 'before'"),
                     2);
    km_test_fails(judge(&id, kb, 99, above, &err), KM_ENOTFOUND, &err, "no run 99");
    km_kb_close(kb);
}

static void test_what_cannot_count(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_ledger(f);
    static const char other[] = "{\"fingerprint\":\"bbbb\",\"name\":\"other\"}";
    int64_t id = 0;
    km_test_ok(km_kb_put_model(&id, kb, other, strlen(other), &err), &err);
    km_test_ok(freeze(NULL, kb, above, &err), &err);
    int64_t run = begin(kb, "memorization.recall", ",\"started\":\"2020-01-01\"");
    km_test_fails(judge(&id, kb, run, above, &err), KM_EINVAL, &err, "before the prediction was");
    /* Nor may it have begun since when its rows were there before. */
    km_table *table = make_table(f->ctx, 3, 0.0);
    run = begin(kb, "memorization.recall", ",\"started\":\"9999-01-01\"");
    km_test_ok(km_kb_store_chunk(NULL, kb, run, "k", table, &err), &err);
    km_test_ok(km__kb_exec(kb, "UPDATE chunks SET stored = '2020-01-01'", &err), &err);
    km_test_fails(judge(&id, kb, run, above, &err), KM_EINVAL, &err, "rows measured at 2020");
    /* What km's release fixed was fixed before, and says so. */
    km_test_ok(freeze_as(NULL, kb, above, "release", &err), &err);
    km_test_ok(judge_as(&id, kb, run, above, "release", 0.3, &err), &err);
    assert_int_equal(count(kb, "SELECT count(*) FROM ledger WHERE basis = 'release'"), 1);
    run = begin(kb, "neurons", ",\"started\":\"9999-01-01\"");
    km_test_fails(judge(&id, kb, run, above, &err), KM_EINVAL, &err, "of the measure neurons");
    run = begin(kb, "memorization.recall", ",\"started\":\"9999-01-01\",\"model\":2");
    km_test_fails(judge(&id, kb, run, above, &err), KM_EINVAL, &err, "another model");
    run = begin(kb, "memorization.recall", ",\"started\":\"9999-01-01\"");
    km_test_ok(km_kb_finish_run(kb, run, "failed", NULL, &err), &err);
    km_test_fails(judge(&id, kb, run, above, &err), KM_EINVAL, &err, "it was failed");
    km_table_free(table);
    km_kb_close(kb);
}

/* Below the two hypotheses a run needs rows with its random controls, not only their names. */
static void test_controls(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_ledger(f);
    static const char controlled[] =
        "{'controls':['logprob','rank'],'direction':'above','falsified_by':'x','family':"
        "'confirmatory','id':'n','kind':'intervention','measure':'neurons','minimum_n':5,'n_unit':"
        "'facts','nodes':['neurons'],'not_testable':'','null':0,'rivals':[],'smallest_effect':0.1,"
        "'statement':'s','statistic':'gain','unit':'share','version':1}";
    int64_t id = 0;
    km_test_ok(freeze(NULL, kb, controlled, &err), &err);
    int64_t run = begin(kb, "neurons", ",\"started\":\"9999-01-01\"");
    km_test_fails(judge(&id, kb, run, controlled, &err), KM_EINVAL, &err, "control logprob");
    km_table *empty = NULL, *half = NULL, *table = make_table(f->ctx, 3, 0.0);
    km_test_ok(km_table_new(&empty, f->ctx, specs, 4, &err), &err);
    km_test_ok(km_table_add_row(empty, &err), &err); /* the columns, and nothing in them */
    km_test_ok(km_kb_store_chunk(NULL, kb, run, "empty", empty, &err), &err);
    km_test_fails(judge(&id, kb, run, controlled, &err), KM_EINVAL, &err, "control logprob");
    km_test_ok(km_table_new(&half, f->ctx, specs + 1, 3, &err), &err);
    km_test_ok(km_table_add_row(half, &err), &err);
    km_test_ok(km_table_set_double(half, 0, 1.0, &err), &err);
    km_test_ok(km_kb_store_chunk(NULL, kb, run, "half", half, &err), &err);
    km_test_fails(judge(&id, kb, run, controlled, &err), KM_EINVAL, &err, "control rank");
    km_test_ok(km_kb_store_chunk(NULL, kb, run, "k", table, &err), &err);
    km_test_ok(judge(&id, kb, run, controlled, &err), &err);
    km_table_free(half);
    km_table_free(empty);
    km_table_free(table);
    km_kb_close(kb);
}

static void test_bad_verdicts(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_ledger(f);
    char p[1000], u[300], p_digest[65], u_digest[65], json[700];
    km_test_ok(freeze(NULL, kb, above, &err), &err);
    quote(p, sizeof p, above);
    quote(u, sizeof u, unit_text);
    hex_digest(p_digest, p);
    hex_digest(u_digest, u);
    int64_t run = begin(kb, "memorization.recall", ",\"started\":\"9999-01-01\""), id = 0;
    static const char *const wrong[][2] = {
        {"\"word\":\"true\",\"n\":3,\"rows\":\"k\"", "CHECK"},
        {"\"word\":\"consistent\",\"n\":-3,\"rows\":\"k\"", "CHECK"},
        {"\"word\":\"consistent\",\"rows\":\"k\"", "'n' is missing"},
        {"\"word\":\"consistent\",\"n\":3", "'rows' is missing"},
        {"\"word\":\"consistent\",\"n\":3,\"rows\":\"k\",\"extra\":1", "unknown member 'extra'"},
        {"\"word\":\"consistent\",\"n\":3,\"rows\":\"k\",\"low\":\"x\"", "must be a number"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        snprintf(json, sizeof json, "{\"prediction\":\"%s\",\"unit\":\"%s\",%s}", p_digest,
                 u_digest, wrong[i][0]);
        km_test_fails(km_kb_put_verdict(&id, kb, run, json, strlen(json), &err), KM_EINVAL, &err,
                      wrong[i][1]);
    }
    static const char none[] = "{\"word\":\"consistent\",\"n\":3,\"rows\":\"k\"}";
    km_test_fails(km_kb_put_verdict(&id, kb, run, none, strlen(none), &err), KM_EINVAL, &err,
                  "must be digests");
    assert_int_equal(count(kb, "SELECT count(*) FROM verdicts"), 0);
    km_kb_close(kb);
}

/* A renewed taxonomy keeps the nodes that predictions bear on. */
static void test_taxonomy_keeps_nodes(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_ledger(f);
    static const char bare[] = "{\"version\":2,\"about\":\"\",\"nodes\":[{\"id\":\"root\","
                               "\"parent\":null,\"name\":\"R\",\"kind\":\"aspect\",\"summary\":"
                               "\"s\",\"evidence\":\"paper\"}],\"works\":[],\"edges\":[],"
                               "\"seed_places\":{},\"measurements\":[]}";
    km_test_ok(freeze(NULL, kb, above, &err), &err);
    km_test_fails(km_kb_load_taxonomy(kb, bare, strlen(bare), &err), KM_EINVAL, &err,
                  "predictions point to");
    km_kb_close(kb);
}

/* What another program changed in a frozen text is seen, in predictions and in units. */
static void test_check_sees_changed_texts(void **state) {
    fixture *f = *state;
    km_error err = KM_ERROR_INIT;
    km_kb *kb = open_ledger(f);
    km_table *t = NULL;
    int64_t n = 0;
    km_test_ok(freeze(NULL, kb, above, &err), &err);
    km_test_ok(km_kb_check(&t, kb, false, &err), &err);
    assert_int_equal(km_table_rows(t), 0);
    km_table_free(t);
    km_test_ok(km__kb_exec(kb,
                           "UPDATE predictions SET content = replace(content, '0.1', '0.01');"
                           "UPDATE units SET content = replace(content, 'F32', 'F16')",
                           &err),
               &err);
    km_test_ok(km_kb_check(&t, kb, false, &err), &err);
    assert_int_equal(km_table_rows(t), 2);
    assert_string_equal(km_table_text(t, 0, 0, &n), "frozen text");
    assert_string_equal(km_table_text(t, 1, 0, &n), "prediction above");
    km_table_free(t);
    km_kb_close(kb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        KB_TEST(test_freeze),
        KB_TEST(test_refuse_predictions),
        KB_TEST(test_verdicts),
        KB_TEST(test_what_cannot_count),
        KB_TEST(test_controls),
        KB_TEST(test_bad_verdicts),
        KB_TEST(test_taxonomy_keeps_nodes),
        KB_TEST(test_check_sees_changed_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
