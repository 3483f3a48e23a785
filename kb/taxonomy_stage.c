/* taxonomy_stage.c: a taxonomy or a part of one, given as JSON, in temporary tables, checked. From
 * there taxonomy.c and taxonomy_edit.c take it into ours. */

#include <string.h>

#include "base/json.h"
#include "kb_private.h"

enum { MAX_KEY = 200, MAX_TEXT = 20000 };

static const char drop_tables[] =
    "DROP TABLE IF EXISTS temp.in_nodes; DROP TABLE IF EXISTS temp.in_works;"
    "DROP TABLE IF EXISTS temp.in_edges; DROP TABLE IF EXISTS temp.in_measures;"
    "DROP TABLE IF EXISTS temp.in_measure_nodes; DROP TABLE IF EXISTS temp.tax_report;"
    "DROP TABLE IF EXISTS temp.to_move";
static const char make_tables[] =
    "CREATE TEMP TABLE in_nodes (place INTEGER PRIMARY KEY, id TEXT UNIQUE, parent TEXT, name TEXT,"
    " kind TEXT, summary TEXT, evidence TEXT, survey_section TEXT, shipped_parent TEXT,"
    " origin TEXT);"
    "CREATE TEMP TABLE in_works (place INTEGER PRIMARY KEY, key TEXT UNIQUE, title TEXT,"
    " authors TEXT, year INTEGER, venue TEXT, arxiv TEXT, verified_by TEXT, note TEXT,"
    " origin TEXT);"
    "CREATE TEMP TABLE in_edges (place INTEGER PRIMARY KEY, work TEXT, node TEXT, relation TEXT,"
    " evidence TEXT, note TEXT, origin TEXT, UNIQUE (work, node, relation));"
    "CREATE TEMP TABLE in_measures (place INTEGER PRIMARY KEY, id TEXT UNIQUE, module TEXT,"
    " status TEXT, title TEXT);"
    "CREATE TEMP TABLE in_measure_nodes (measure TEXT, node TEXT, PRIMARY KEY (measure, node));"
    "CREATE TEMP TABLE tax_report (what TEXT, outcome TEXT, n INTEGER, key TEXT, ours TEXT,"
    " theirs TEXT)";

/* The last one or two fields are for what a user exported. */
static const km__kb_field node_fields[] = {
    {"id", KM__KB_TEXT, true},
    {"parent", KM__KB_TEXT, false},
    {"name", KM__KB_TEXT, true},
    {"kind", KM__KB_TEXT, true},
    {"summary", KM__KB_TEXT, true},
    {"evidence", KM__KB_TEXT, true},
    {"survey_section", KM__KB_TEXT, false},
    {"shipped_parent", KM__KB_TEXT, false},
    {"origin", KM__KB_TEXT, false},
};
static const km__kb_field work_fields[] = {
    {"key", KM__KB_TEXT, true},         {"title", KM__KB_TEXT, true},
    {"authors", KM__KB_TEXT, true},     {"year", KM__KB_INT, false},
    {"venue", KM__KB_TEXT, false},      {"arxiv", KM__KB_TEXT, false},
    {"verified_by", KM__KB_TEXT, true}, {"note", KM__KB_TEXT, false},
    {"origin", KM__KB_TEXT, false},
};
static const km__kb_field edge_fields[] = {
    {"work", KM__KB_TEXT, true},     {"node", KM__KB_TEXT, true},  {"relation", KM__KB_TEXT, true},
    {"evidence", KM__KB_TEXT, true}, {"note", KM__KB_TEXT, false}, {"origin", KM__KB_TEXT, false},
};
static const km__kb_field measure_fields[] = {
    {"id", KM__KB_TEXT, true},     {"module", KM__KB_TEXT, true}, {"status", KM__KB_TEXT, true},
    {"title", KM__KB_TEXT, false}, {"nodes", KM__KB_ARRAY, true}, /* bound to ?5, which nothing
                                                                     uses: its rows follow */
};

typedef struct part {
    const char *name; /* of the array */
    const char *sql;
    const km__kb_field *fields;
    int n_fields, n_user; /* how many of the fields are for what a user exported */
} part;

#define N_FIELDS(fields) ((int)(sizeof(fields) / sizeof((fields)[0])))
static const part parts[] = {
    {"nodes",
     "INSERT INTO temp.in_nodes (id, parent, name, kind, summary, evidence, survey_section,"
     " shipped_parent, origin) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
     node_fields, N_FIELDS(node_fields), 2},
    {"works",
     "INSERT INTO temp.in_works (key, title, authors, year, venue, arxiv, verified_by, note,"
     " origin) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
     work_fields, N_FIELDS(work_fields), 1},
    {"edges",
     "INSERT INTO temp.in_edges (work, node, relation, evidence, note, origin)"
     " VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
     edge_fields, N_FIELDS(edge_fields), 1},
    {"measurements",
     "INSERT INTO temp.in_measures (id, module, status, title) SELECT ?1, ?2, ?3, ?4"
     " WHERE ?5 IS NOT NULL",
     measure_fields, N_FIELDS(measure_fields), 0},
};
enum { N_PARTS = (int)(sizeof parts / sizeof parts[0]) };

/* ---- words and texts ---- */

static const struct {
    const char *array, *member, *words;
} vocabularies[] = {
    {"nodes", "kind", " aspect mechanism phenomenon hypothesis analysis_method open_question "},
    {"nodes", "evidence", " paper seed known guess "},
    {"nodes", "origin", " user "},
    {"works", "origin", " user "},
    {"edges", "origin", " user "},
    {"edges", "relation", " proposes supports contradicts measures surveys "},
    {"edges", "evidence", " paper seed known guess "},
    {"measurements", "status", " available planned user "},
};

static bool is_word(const char *words, const char *word) {
    size_t n = strlen(word);
    for (const char *at = words; n > 0 && (at = strstr(at, word)) != NULL; at++) {
        if (at > words && at[-1] == ' ' && at[n] == ' ' && memchr(word, ' ', n) == NULL) {
            return true;
        }
    }
    return false;
}

static km_status check_words(const char *name, const json_t *array, km_error *err) {
    size_t i;
    const json_t *record;
    json_array_foreach(array, i, record) {
        for (size_t k = 0; k < sizeof vocabularies / sizeof vocabularies[0]; k++) {
            const char *member = vocabularies[k].member;
            const char *word = json_string_value(json_object_get(record, member));
            if (word != NULL && strcmp(name, vocabularies[k].array) == 0 &&
                !is_word(vocabularies[k].words, word)) {
                return KM_SET(err, KM_EINVAL, "%s[%zu]: '%s' must be one of:%s, not '%.60s'", name,
                              i, member, vocabularies[k].words, word);
            }
        }
    }
    return KM_OK;
}

static bool is_key_member(const char *member) {
    static const char *const keys[] = {"id", "key", "parent", "work", "node", "shipped_parent"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        if (strcmp(member, keys[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* What an id may hold goes into file names, shells and BibTeX unharmed. */
static bool is_key(const char *text) {
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:/+";
    size_t n = strlen(text);
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)text[i] < 0x80 && strchr(allowed, text[i]) == NULL) {
            return false;
        }
    }
    return n > 0 && n <= MAX_KEY && text[0] != '-';
}

static bool is_text(const char *text, size_t n, bool needed) {
    bool blank = true;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
            return false;
        }
        blank = blank && (c <= 0x20);
    }
    return n <= MAX_TEXT && !(blank && needed);
}

static km_status check_text(const char *name, size_t i, const char *member, const json_t *value,
                            km_error *err) {
    const char *text = json_string_value(value);
    if (text == NULL) {
        return KM_OK;
    }
    if (is_key_member(member)) {
        return is_key(text)
                   ? KM_OK
                   : KM_SET(err, KM_EINVAL,
                            "%s[%zu]: '%s' must be 1 to %d letters, digits or -_.:/+, without"
                            " blanks, and not begin with '-': '%.60s'",
                            name, i, member, MAX_KEY, text);
    }
    bool needed = strcmp(member, "name") == 0 || strcmp(member, "title") == 0 ||
                  strcmp(member, "module") == 0;
    if (!is_text(text, json_string_length(value), needed)) {
        return KM_SET(err, KM_EINVAL,
                      "%s[%zu]: '%s' must %sbe at most %d bytes, without control characters", name,
                      i, member, needed ? "not be blank, and " : "", MAX_TEXT);
    }
    return KM_OK;
}

/* What km ships is held to this by its tests. */
static km_status check_texts(const char *name, json_t *array, km_error *err) {
    size_t i;
    json_t *record, *value;
    const char *member;
    json_array_foreach(array, i, record) {
        json_object_foreach(record, member, value) {
            KM_TRY(check_text(name, i, member, value, err));
        }
    }
    return KM_OK;
}

/* "2407.15017": four digits, a point, four or five digits. */
static bool is_arxiv(const char *text) {
    size_t n = strlen(text);
    bool good = (n == 9 || n == 10) && text[4] == '.';
    for (size_t i = 0; i < n && good; i++) {
        good = i == 4 || (text[i] >= '0' && text[i] <= '9');
    }
    return good;
}

static km_status check_works(const json_t *works, km_error *err) {
    size_t i;
    const json_t *work;
    json_array_foreach(works, i, work) {
        const char *arxiv = json_string_value(json_object_get(work, "arxiv"));
        const json_t *year = json_object_get(work, "year");
        if (arxiv != NULL && !is_arxiv(arxiv)) {
            return KM_SET(err, KM_EINVAL,
                          "works[%zu]: 'arxiv' must look like 2407.15017, not '%.60s'", i, arxiv);
        }
        if (json_is_integer(year) &&
            (json_integer_value(year) < 1000 || json_integer_value(year) > 3000)) {
            return KM_SET(err, KM_EINVAL, "works[%zu]: 'year' must lie between 1000 and 3000", i);
        }
    }
    return KM_OK;
}

/* ---- staging ---- */

static km_status stage_measure_nodes(km_kb *kb, const json_t *measures, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    size_t i, k;
    const json_t *measure, *node;
    KM_GO(km__kb_prepare(&stmt, kb,
                         "INSERT INTO temp.in_measure_nodes (measure, node) VALUES (?1, ?2)"
                         " ON CONFLICT DO NOTHING",
                         err));
    json_array_foreach(measures, i, measure) {
        const char *id = json_string_value(json_object_get(measure, "id"));
        json_array_foreach(json_object_get(measure, "nodes"), k, node) {
            if (!json_is_string(node)) {
                KM_FAIL(err, KM_EINVAL, "measurements[%zu]: nodes[%zu] must be a text", i, k);
            }
            KM_GO(km__kb_bind_text(kb, stmt, 1, id, -1, err));
            KM_GO(km__kb_bind_text(kb, stmt, 2, json_string_value(node), -1, err));
            KM_GO(km__kb_run(kb, stmt, err));
        }
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

static km_status stage_part(km_kb *kb, const part *p, json_t *array, bool user, km_error *err) {
    int64_t n = 0;
    KM_TRY(check_words(p->name, array, err));
    if (user) {
        KM_TRY(check_texts(p->name, array, err));
    }
    int n_fields = user ? p->n_fields : p->n_fields - p->n_user;
    return km__kb_insert_records(&n, kb, p->sql, p->fields, n_fields, array, p->name, err);
}

km_status km__kb_stage_taxonomy(km_kb *kb, const json_t *root, bool user, km_error *err) {
    KM_TRY(km__kb_exec(kb, drop_tables, err));
    KM_TRY(km__kb_exec(kb, make_tables, err));
    for (int i = 0; i < N_PARTS; i++) {
        json_t *array = json_object_get(root, parts[i].name), *record;
        size_t k;
        if (array == NULL && user) {
            continue;
        }
        if (!json_is_array(array)) {
            return KM_SET(err, KM_EFORMAT, "'%s' must be an array", parts[i].name);
        }
        json_array_foreach(array, k, record) {
            if (!json_is_object(record)) {
                return KM_SET(err, KM_EFORMAT, "%s[%zu] must be an object", parts[i].name, k);
            }
        }
        KM_TRY(stage_part(kb, &parts[i], array, user, err));
    }
    KM_TRY(check_works(json_object_get(root, "works"), err));
    return stage_measure_nodes(kb, json_object_get(root, "measurements"), err);
}

void km__kb_unstage_taxonomy(km_kb *kb) {
    (void)sqlite3_exec(kb->db, drop_tables, NULL, NULL, NULL);
}

/* ---- what both ways of taking it in share ---- */

/* Rows `t` of a file and `o` of ours with one key: what of them is compared. */
static const struct {
    const char *what, *key, *same, *ours, *theirs, *own;
} compared[] = {
    {"nodes", "t.id", "o.id = t.id",
     "json_array(coalesce(o.shipped_parent, o.parent), o.name, o.kind, o.summary, o.evidence,"
     " o.survey_section)",
     "json_array(coalesce(t.shipped_parent, t.parent), t.name, t.kind, t.summary, t.evidence,"
     " t.survey_section)",
     "o.origin = 'user'"},
    {"works", "t.key", "o.key = t.key",
     "json_array(o.title, o.authors, o.year, o.venue, o.arxiv, o.note)",
     "json_array(t.title, t.authors, t.year, t.venue, t.arxiv, t.note)", "o.origin = 'user'"},
    {"edges", "t.work || ' ' || t.relation || ' ' || t.node",
     "o.work = t.work AND o.node = t.node AND o.relation = t.relation",
     "json_array(o.evidence, o.note)", "json_array(t.evidence, t.note)", "o.origin = 'user'"},
    {"measures", "t.id", "o.id = t.id", "json_array(o.module, o.title)",
     "json_array(t.module, t.title)", "o.status = 'user'"},
};

km_status km__kb_list_differences(km_kb *kb, const char *what, bool own, km_error *err) {
    size_t i = 0;
    while (strcmp(compared[i].what, what) != 0) {
        i++;
    }
    char *sql = sqlite3_mprintf(
        "INSERT INTO temp.tax_report SELECT '%q', 'differs', 1, %s, %s, %s FROM temp.\"in_%w\" AS t"
        " JOIN \"%w\" AS o ON %s WHERE %s IS NOT %s AND %s",
        what, compared[i].key, compared[i].ours, compared[i].theirs, what, what, compared[i].same,
        compared[i].ours, compared[i].theirs, own ? compared[i].own : "true");
    if (sql == NULL) {
        return KM_SET(err, KM_ENOMEM, "no memory for a statement");
    }
    km_status status = km__kb_exec(kb, sql, err);
    sqlite3_free(sql);
    return status;
}

static const char unknown_ends[] =
    "SELECT printf('edges[%d]: there is no work ''%s''', place - 1, work) FROM temp.in_edges"
    " WHERE work NOT IN (SELECT key FROM works)"
    " UNION ALL SELECT printf('edges[%d]: there is no node ''%s''', place - 1, node)"
    " FROM temp.in_edges WHERE node NOT IN (SELECT id FROM nodes)"
    " UNION ALL SELECT printf('measure ''%s'': there is no node ''%s''', measure, node)"
    " FROM temp.in_measure_nodes WHERE node NOT IN (SELECT id FROM nodes) LIMIT 1";

km_status km__kb_refuse_rows(km_kb *kb, const char *sql, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    KM_GO(km__kb_prepare(&stmt, kb, sql, err));
    KM_GO(km__kb_step(&row, kb, stmt, err));
    if (row) {
        const char *why = (const char *)sqlite3_column_text(stmt, 0);
        KM_FAIL(err, KM_EINVAL, "%.300s", why == NULL ? "it is not readable" : why);
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

km_status km__kb_check_ends(km_kb *kb, km_error *err) {
    return km__kb_refuse_rows(kb, unknown_ends, err);
}

km_status km__kb_finish_taxonomy(km_kb *kb, const char *source, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    KM_GO(km__kb_number_tree(kb, err));
    KM_GO(km__kb_unindex(kb, "node", err));
    KM_GO(km__kb_unindex(kb, "work", err));
    KM_GO(km__kb_index(kb, "node", err));
    KM_GO(km__kb_index(kb, "work", err));
    KM_GO(km__kb_prepare(&stmt, kb,
                         "INSERT INTO taxonomy_conflicts (what, key, problem, ours, theirs, source,"
                         " found) SELECT what, key, outcome, coalesce(ours, 'null'),"
                         " coalesce(theirs, 'null'), ?1, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"
                         " FROM temp.tax_report WHERE outcome IN ('differs', 'gone') OR"
                         " (outcome = 'moved' AND ?1 = 'km') ON CONFLICT DO NOTHING",
                         err));
    KM_GO(km__kb_bind_text(kb, stmt, 1, source, -1, err));
    KM_GO(km__kb_run(kb, stmt, err));
done:
    sqlite3_finalize(stmt);
    return status;
}
