/* The taxonomy as its user changes it: what is added, moved and imported; what a newer taxonomy of
 * km's leaves alone, and what it lists. */

#include "kb_test.h"

static km_status edit(km_table **out, km_kb *kb, const char *json, km_error *err) {
    return km_kb_edit_taxonomy(out, kb, json, strlen(json), err);
}

static int64_t rows_after(km_kb *kb, const char *json) {
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    km_test_ok(edit(&t, kb, json, &err), &err);
    int64_t n = km_table_rows(t);
    km_table_free(t);
    return n;
}

static void assert_sound(km_kb *kb) {
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    km_test_ok(km_kb_check(&t, kb, true, &err), &err);
    assert_int_equal(km_table_rows(t), 0);
    km_table_free(t);
    /* The numbers are those of the tree that the parents make. */
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes AS n JOIN nodes AS p ON p.id = n.parent"
                               " WHERE n.depth <> p.depth + 1 OR n.tree_enter <= p.tree_enter"
                               " OR n.tree_leave > p.tree_leave"),
                     0);
    assert_int_equal(count(kb, "SELECT max(tree_leave) + 1 - count(*) FROM nodes"), 0);
}

/* The order of the tree as "root memorization ...". */
static void assert_order(km_kb *kb, const char *want) {
    char sql[400];
    snprintf(sql, sizeof sql,
             "SELECT group_concat(id, ' ') = '%s' FROM (SELECT id FROM nodes ORDER BY tree_enter)",
             want);
    if (count(kb, sql) != 1) {
        fail_msg("the order is not '%s'", want);
    }
}

#define NODE(id, parent, name)                                                                     \
    "{\"id\":\"" id "\",\"parent\":\"" parent "\",\"name\":\"" name                                \
    "\",\"kind\":\"mechanism\",\"summary\":\"s\",\"evidence\":\"guess\"}"
#define WORK(key, title)                                                                           \
    "{\"key\":\"" key "\",\"title\":\"" title "\",\"authors\":\"A\",\"verified_by\":\"me\"}"
#define EDGE(work, node, evidence)                                                                 \
    "{\"work\":\"" work "\",\"node\":\"" node                                                      \
    "\",\"relation\":\"supports\",\"evidence\":\"" evidence "\"}"

static const char additions[] = "{\"nodes\":[" NODE("below", "mine", "Below") "," NODE(
    "mine", "hyp",
    "Mine") "],\"works\":[" WORK("w2",
                                 "Own") "],\"edges\":[" EDGE("w2", "mine",
                                                             "known") "," EDGE("w1", "other",
                                                                               "guess") "],"
                                                                                        "\"measurem"
                                                                                        "ents\":[{"
                                                                                        "\"id\":"
                                                                                        "\"user."
                                                                                        "m\","
                                                                                        "\"module\""
                                                                                        ":\"user\","
                                                                                        "\"status\""
                                                                                        ":\"user\","
                                                                                        "\"nodes\":"
                                                                                        "["
                                                                                        "\"mine\"]}"
                                                                                        "],"
                                                                                        "\"moves\":"
                                                                                        "[{\"id\":"
                                                                                        "\"other\","
                                                                                        "\"parent\""
                                                                                        ":\"memoriz"
                                                                                        "ation\"}]"
                                                                                        "}";

static void test_edit(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f);
    assert_int_equal(rows_after(kb, additions), 6); /* five kinds of rows added, one node moved */
    assert_order(kb, "root memorization hyp mine below other");
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE origin = 'user'"), 2);
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE shipped_parent = 'root'"), 1);
    assert_int_equal(hits(kb, "Below", "node"), 1);
    assert_int_equal(hits(kb, "Own", "work"), 1);
    assert_int_equal(rows_after(kb, additions), 0); /* the same again */
    assert_int_equal(rows_after(kb, "{}"), 0);
    assert_sound(kb);
    /* Back where km has it. */
    assert_int_equal(rows_after(kb, "{\"moves\":[{\"id\":\"other\",\"parent\":\"root\"}]}"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE shipped_parent IS NOT NULL"), 0);
    assert_int_equal(count(kb, "SELECT count(*) FROM taxonomy_conflicts"), 0);
    /* Other content stays out and is listed, once. */
    static const char other[] = "{\"nodes\":[" NODE("mine", "hyp", "Else") "],\"works\":[" WORK(
        "w1", "Else") "],\"edges\":[" EDGE("w2", "mine", "guess") "]}";
    for (int i = 0; i < 2; i++) {
        assert_int_equal(rows_after(kb, other), 3);
        assert_int_equal(count(kb, "SELECT count(*) FROM taxonomy_conflicts WHERE"
                                   " source = 'import' AND problem = 'differs'"),
                         3);
    }
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE name = 'Mine'"), 1);
    assert_sound(kb);
    km_kb_close(kb);
}

/* A node that was moved travels with where km has it. */
static void test_edit_moved_nodes(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f);
    static const char moved[] =
        "{\"nodes\":[{\"id\":\"other\",\"parent\":\"hyp\",\"shipped_parent\":\"root\",\"name\":"
        "\"Other\",\"kind\":\"phenomenon\",\"summary\":\"Else\",\"evidence\":\"seed\"}]}";
    static const char elsewhere[] = "{\"moves\":[{\"id\":\"other\",\"parent\":\"memorization\"}]}";
    assert_int_equal(rows_after(kb, moved), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE parent = 'hyp'"), 1);
    assert_int_equal(rows_after(kb, moved), 0);
    assert_int_equal(rows_after(kb, elsewhere), 1);
    assert_int_equal(rows_after(kb, moved), 1); /* moved here already: listed */
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE parent = 'hyp'"), 0);
    assert_int_equal(count(kb, "SELECT count(*) FROM taxonomy_conflicts"), 1);
    assert_sound(kb);
    km_kb_close(kb);
}

static void test_edit_refuses(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f);
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"{\"moves\":[{\"id\":\"memorization\",\"parent\":\"hyp\"}]}", "below itself"},
        {"{\"moves\":[{\"id\":\"hyp\",\"parent\":\"hyp\"}]}", "below itself"},
        {"{\"moves\":[{\"id\":\"root\",\"parent\":\"hyp\"}]}", "cannot be moved"},
        {"{\"moves\":[{\"id\":\"nil\",\"parent\":\"hyp\"}]}", "no node 'nil'"},
        {"{\"moves\":[{\"id\":\"hyp\",\"parent\":\"nil\"}]}", "no node 'nil'"},
        {"{\"moves\":[{\"id\":\"hyp\"}]}", "'parent' is missing"},
        {"{\"moves\":{}}", "must be an array"},
        {"{\"nodes\":[" NODE("a", "b", "A") "," NODE("b", "a", "B") "]}", "below itself"},
        {"{\"nodes\":[" NODE("a", "nil", "A") "]}", "no node 'nil'"},
        {"{\"nodes\":[" NODE("a", "hyp", "A") "," NODE("a", "hyp", "A") "]}", "nodes[1]"},
        {"{\"nodes\":[" NODE("a b", "hyp", "A") "]}", "'id' must be"},
        {"{\"nodes\":[" NODE("-a", "hyp", "A") "]}", "'id' must be"},
        {"{\"nodes\":[" NODE("a'--", "hyp", "A") "]}", "'id' must be"},
        {"{\"nodes\":[" NODE("a", "hyp", " ") "]}", "'name' must not be blank"},
        {"{\"nodes\":[" NODE("a", "hyp", "\\u001b[2J") "]}", "control characters"},
        {"{\"nodes\":[{\"id\":\"a\",\"name\":\"A\",\"kind\":\"mechanism\",\"summary\":\"s\","
         "\"evidence\":\"guess\"}]}",
         "'parent' is missing"},
        {"{\"nodes\":[{\"id\":\"a\",\"parent\":\"hyp\",\"name\":\"A\",\"kind\":\"idea\","
         "\"summary\":"
         "\"s\",\"evidence\":\"guess\"}]}",
         "'kind' must be one of"},
        {"{\"nodes\":[7]}", "must be an object"},
        {"{\"nodes\":7}", "must be an array"},
        {"{\"edges\":[" EDGE("w9", "hyp", "known") "]}", "there is no work 'w9'"},
        {"{\"edges\":[" EDGE("w1", "nil", "known") "]}", "there is no node 'nil'"},
        {"{\"edges\":[" EDGE("w1", "hyp", "sure") "]}", "'evidence' must be one of"},
        {"{\"works\":[{\"key\":\"k\",\"title\":\"T\",\"authors\":\"A\",\"arxiv\":\"240.1\","
         "\"verified_by\":\"me\"}]}",
         "must look like"},
        {"{\"works\":[{\"key\":\"k\",\"title\":\"T\",\"authors\":\"A\",\"year\":12,"
         "\"verified_by\":\"me\"}]}",
         "between 1000 and 3000"},
        {"{\"measurements\":[{\"id\":\"m\",\"module\":\"u\",\"status\":\"user\",\"nodes\":[\"nil\"]"
         "}]}",
         "there is no node 'nil'"},
        {"{\"node\":[]}", "unknown member 'node'"},
        {"{\"\":[]}", "unknown member ''"},
        {"[]", "must be a JSON object"},
        {"{", "taxonomy"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        km_error err = KM_ERROR_INIT;
        km_table *t = NULL;
        assert_int_not_equal(edit(&t, kb, cases[i].json, &err), KM_OK);
        assert_null(t);
        if (strstr(err.message, cases[i].message) == NULL) {
            fail_msg("case %zu: '%s' is not in '%s'", i, cases[i].message, err.message);
        }
        km_error_clear(&err);
        assert_order(kb, "root memorization hyp other");
        assert_int_equal(count(kb, "SELECT count(*) FROM works"), 1);
    }
    /* One bad row and nothing of the good ones is kept. */
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    km_test_fails(edit(&t, kb,
                       "{\"nodes\":[" NODE("a", "hyp", "A") "],\"edges\":[" EDGE(
                           "w1", "a", "known") "," EDGE("w1", "nil", "known") "]}",
                       &err),
                  KM_EINVAL, &err, "edges[1]");
    assert_order(kb, "root memorization hyp other");
    assert_sound(kb);
    km_kb_close(kb);
}

/* The tiny taxonomy with one text replaced, each time it occurs. */
static void renew(km_kb *kb, const char *from, const char *to) {
    km_error err = KM_ERROR_INIT;
    char text[4000] = "";
    size_t n = 0;
    for (const char *at = tiny_taxonomy; *at != '\0';) {
        const char *next = strstr(at, from);
        size_t kept = next == NULL ? strlen(at) : (size_t)(next - at);
        assert_true(n + kept + strlen(to) + 1 < sizeof text);
        memcpy(text + n, at, kept);
        n += kept;
        at += kept;
        if (next != NULL) {
            memcpy(text + n, to, strlen(to));
            n += strlen(to);
            at += strlen(from);
        }
    }
    km_test_ok(km_kb_load_taxonomy(kb, text, n, &err), &err);
}

static int64_t conflicts(km_kb *kb, const char *what, const char *key, const char *problem) {
    char sql[300];
    snprintf(sql, sizeof sql,
             "SELECT count(*) FROM taxonomy_conflicts WHERE source = 'km' AND what = '%s' AND"
             " key = '%s' AND problem = '%s'",
             what, key, problem);
    return count(kb, sql);
}

static void test_renewal_keeps_additions(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f);
    assert_int_equal(rows_after(kb, additions), 6);
    renew(kb, "Recalling", "RECALLING");
    assert_order(kb, "root memorization hyp mine below other");
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE summary LIKE 'RECALLING%'"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM works WHERE key = 'w2'"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM edges WHERE origin = 'user'"), 2);
    assert_int_equal(count(kb, "SELECT count(*) FROM measure_nodes WHERE measure = 'user.m'"), 1);
    assert_int_equal(conflicts(kb, "nodes", "other", "moved"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM taxonomy_conflicts"), 1);
    assert_sound(kb);
    /* km moves it to the same place: no longer the user's move. */
    renew(kb, "\"id\":\"other\",\"parent\":\"root\"",
          "\"id\":\"other\",\"parent\":\"memorization\"");
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE shipped_parent IS NOT NULL"), 0);
    assert_int_equal(count(kb, "SELECT count(*) FROM taxonomy_conflicts"), 0);
    assert_sound(kb);
    km_kb_close(kb);
}

static void test_renewal_lists_conflicts(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f);
    assert_int_equal(rows_after(kb, additions), 6);
    /* km ships a node and a work with the user's ids and other content. */
    renew(kb, "\"hyp\",\"parent\"",
          "\"mine\",\"parent\":\"root\",\"name\":\"Theirs\",\"kind\":"
          "\"aspect\",\"summary\":\"t\",\"evidence\":\"seed\"},"
          "{\"id\":\"hyp\",\"parent\"");
    assert_int_equal(conflicts(kb, "nodes", "mine", "differs"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE name = 'Mine' AND parent = 'hyp'"),
                     1);
    renew(kb, "\"works\":[", "\"works\":[" WORK("w2", "Theirs") ",");
    assert_int_equal(conflicts(kb, "works", "w2", "differs"), 1);
    assert_int_equal(conflicts(kb, "nodes", "mine", "differs"), 0); /* of an earlier taxonomy */
    assert_int_equal(count(kb, "SELECT count(*) FROM works WHERE title = 'Own'"), 1);
    /* The same edge with another mark; and a work that is now as the user has it. */
    renew(kb, "\"edges\":[", "\"edges\":[" EDGE("w1", "other", "known") ",");
    assert_int_equal(conflicts(kb, "edges", "w1 supports other", "differs"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM edges WHERE node = 'other' AND"
                               " evidence = 'guess'"),
                     1);
    renew(kb, "\"works\":[", "\"works\":[" WORK("w2", "Own") ",");
    assert_int_equal(count(kb, "SELECT count(*) FROM works WHERE origin = 'user'"), 0);
    assert_int_equal(count(kb, "SELECT count(*) FROM taxonomy_conflicts WHERE what = 'works'"), 0);
    /* km no longer ships it, and the user's edge still needs it. */
    renew(kb, "Recalling", "RECALLING");
    assert_int_equal(conflicts(kb, "works", "w2", "gone"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM works WHERE key = 'w2'"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM edges WHERE work = 'w2'"), 1);
    assert_sound(kb);
    km_kb_close(kb);
}

/* A node that km drops stays while something of the user's lies below it. */
static void test_renewal_keeps_what_is_needed(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f);
    assert_int_equal(rows_after(kb, "{\"nodes\":[" NODE("mine", "hyp", "Mine") "]}"), 1);
    renew(kb, "\"hyp\"", "\"hypo\"");
    assert_order(kb, "root memorization hypo hyp mine other");
    assert_int_equal(conflicts(kb, "nodes", "hyp", "gone"), 1);
    assert_int_equal(count(kb, "SELECT count(*) FROM nodes WHERE id = 'hyp' AND origin = 'user'"),
                     1);
    assert_sound(kb);
    renew(kb, "\"other\"", "\"another\""); /* needed by nobody */
    assert_order(kb, "root memorization hyp mine another");
    assert_sound(kb);
    km_kb_close(kb);
}

/* km and the user move two nodes below each other: the user's place holds, and it is listed. */
static void test_renewal_breaks_circles(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f);
    assert_int_equal(rows_after(kb, "{\"moves\":[{\"id\":\"memorization\",\"parent\":\"other\"}]}"),
                     1);
    /* In the new order `other` comes below `hyp`, which is below `memorization`. */
    renew(kb, "\"id\":\"other\",\"parent\":\"root\"", "\"id\":\"other\",\"parent\":\"hyp\"");
    assert_order(kb, "root other memorization hyp");
    assert_int_equal(conflicts(kb, "nodes", "other", "moved"), 1);
    assert_int_equal(conflicts(kb, "nodes", "memorization", "moved"), 1);
    assert_sound(kb);
    km_kb_close(kb);
}

/* 101 levels are too many, 100 are not. */
static void test_depth(void **state) {
    fixture *f = *state;
    km_kb *kb = open_with_taxonomy(f);
    km_error err = KM_ERROR_INIT;
    km_table *t = NULL;
    static char json[40000];
    for (int levels = 100; levels >= 99; levels--) {
        size_t n = (size_t)snprintf(json, sizeof json, "{\"nodes\":[");
        for (int i = 0; i < levels; i++) {
            char parent[16] = "other";
            if (i > 0) {
                snprintf(parent, sizeof parent, "n%d", i - 1);
            }
            n += (size_t)snprintf(json + n, sizeof json - n,
                                  "%s{\"id\":\"n%d\",\"parent\":\"%s\",\"name\":\"N\",\"kind\":"
                                  "\"aspect\",\"summary\":\"s\",\"evidence\":\"guess\"}",
                                  i > 0 ? "," : "", i, parent);
        }
        snprintf(json + n, sizeof json - n, "]}");
        if (levels == 100) {
            km_test_fails(edit(&t, kb, json, &err), KM_EINVAL, &err, "100 levels");
            km_error_clear(&err);
        } else {
            assert_int_equal(rows_after(kb, json), 1);
        }
    }
    assert_sound(kb);
    km_kb_close(kb);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        KB_TEST(test_edit),
        KB_TEST(test_edit_moved_nodes),
        KB_TEST(test_edit_refuses),
        KB_TEST(test_renewal_keeps_additions),
        KB_TEST(test_renewal_lists_conflicts),
        KB_TEST(test_renewal_keeps_what_is_needed),
        KB_TEST(test_renewal_breaks_circles),
        KB_TEST(test_depth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
