/* ask.c: the named questions.
 *
 * Each is a file of kb/questions, built in as a C string by tools/embed_sql.py, with a head that
 * names its parameters and their defaults. Values given are checked against that head; a name that
 * is not there gets the nearest ones in its message.
 */

#include <string.h>

#include "base/json.h"
#include "kb_private.h"

enum { MAX_NEAR = 5 };

static const km__kb_question *find_question(const char *name) {
    for (int i = 0; i < km__kb_n_questions; i++) {
        if (strcmp(km__kb_questions[i].name, name) == 0) {
            return &km__kb_questions[i];
        }
    }
    return NULL;
}

/* True when the two names share a word of four letters or more. */
static bool share_word(const char *a, const char *b) {
    char word[64];
    for (const char *start = a; *start != '\0';) {
        size_t n = strcspn(start, "-_ ");
        if (n >= 4 && n < sizeof word) {
            memcpy(word, start, n);
            word[n] = '\0';
            if (strstr(b, word) != NULL) {
                return true;
            }
        }
        start += n + (start[n] != '\0');
    }
    return false;
}

static km_status no_such_question(km_ctx *ctx, const char *name, km_error *err) {
    km_status status = KM_OK;
    km__kb_text near = {ctx, NULL, 0, 0};
    int n_near = 0;
    for (int i = 0; i < km__kb_n_questions && n_near < MAX_NEAR; i++) {
        const char *other = km__kb_questions[i].name;
        if (share_word(name, other)) {
            KM_GO(km__kb_text_add(&near, n_near > 0 ? ", " : "; near: ", n_near > 0 ? 2 : 8, err));
            KM_GO(km__kb_text_add(&near, other, strlen(other), err));
            n_near++;
        }
    }
    KM_FAIL(err, KM_ENOTFOUND, "there is no question '%.80s' among the %d%s", name,
            km__kb_n_questions, n_near > 0 ? near.data : "");
done:
    km__kb_text_free(&near);
    return status;
}

/* Put one declared parameter, "name" or "name=default", into `values` unless it is there. Returns
 * the length of its name. */
static km_status complete_parameter(size_t *n_name, json_t *values, const char *declared, size_t n,
                                    km_error *err) {
    char name[64];
    const char *equals = memchr(declared, '=', n);
    *n_name = equals == NULL ? n : (size_t)(equals - declared);
    if (*n_name >= sizeof name) {
        return KM_SET(err, KM_EINTERNAL, "a parameter's name is too long");
    }
    memcpy(name, declared, *n_name);
    name[*n_name] = '\0';
    if (json_object_get(values, name) != NULL) {
        return KM_OK;
    }
    if (equals == NULL) {
        return KM_SET(err, KM_EINVAL, "the parameter '%s' is missing", name);
    }
    size_t n_value = n - *n_name - 1;
    json_t *value = n_value == 0 ? json_null() : json_stringn(equals + 1, n_value);
    if (json_object_set_new(values, name, value) != 0) {
        return KM_SET(err, KM_ENOMEM, "no memory for the parameters");
    }
    return KM_OK;
}

static bool is_declared(const char *parameters, const char *name) {
    size_t n_name = strlen(name);
    for (const char *at = parameters; *at != '\0';) {
        size_t n = strcspn(at, " ");
        if (n >= n_name && strncmp(at, name, n_name) == 0 && (n == n_name || at[n_name] == '=')) {
            return true;
        }
        at += n + (at[n] != '\0');
    }
    return false;
}

/* Refuse parameters the question does not have, and add the defaults of those not given. */
static km_status complete(json_t *values, const km__kb_question *question, km_error *err) {
    const char *name;
    json_t *value;
    size_t n_name = 0;
    json_object_foreach(values, name, value) {
        if (!is_declared(question->parameters, name)) {
            return KM_SET(err, KM_EINVAL, "'%s' has no parameter '%.60s'; it has: %s",
                          question->name, name,
                          question->parameters[0] == '\0' ? "none" : question->parameters);
        }
    }
    for (const char *at = question->parameters; *at != '\0';) {
        size_t n = strcspn(at, " ");
        KM_TRY(complete_parameter(&n_name, values, at, n, err));
        at += n + (at[n] != '\0');
    }
    return KM_OK;
}

km_status km_kb_ask(km_table **out, km_kb *kb, const char *name, const char *params_json,
                    km_error *err) {
    km_status status = KM_OK;
    json_t *values = NULL;
    void *text = NULL;
    const km__kb_question *question = find_question(name);
    *out = NULL;
    if (question == NULL) {
        return no_such_question(kb->ctx, name, err);
    }
    const char *given = params_json == NULL ? "{}" : params_json;
    KM_GO(km__kb_parse(&values, "parameters", given, strlen(given), false, err));
    KM_GO(complete(values, question, err));
    size_t n = json_dumpb(values, NULL, 0, 0);
    KM_GO(km_alloc(&text, kb->ctx, n + 1, err));
    (void)json_dumpb(values, text, n, 0);
    ((char *)text)[n] = '\0';
    KM_GO(km_kb_query(out, kb, question->sql, text, 0, 0, err));
done:
    km_free(kb->ctx, text);
    json_decref(values);
    return status;
}

km_status km_kb_questions(km_table **out, km_ctx *ctx, km_error *err) {
    static const km_column_spec columns[] = {
        {"name", KM_COLUMN_TEXT, "", "What to ask for."},
        {"title", KM_COLUMN_TEXT, "", "The question."},
        {"description", KM_COLUMN_TEXT, "", "What the rows of the answer are."},
        {"parameters", KM_COLUMN_TEXT, "", "Parameters with their defaults."},
        {"sql", KM_COLUMN_TEXT, "", "The statement that answers it."},
    };
    km_status status = KM_OK;
    km_table *table = NULL;
    *out = NULL;
    KM_GO(km_table_new(&table, ctx, columns, 5, err));
    for (int i = 0; i < km__kb_n_questions; i++) {
        const km__kb_question *question = &km__kb_questions[i];
        KM_GO(km_table_add_row(table, err));
        KM_GO(km_table_set_text(table, 0, question->name, -1, err));
        KM_GO(km_table_set_text(table, 1, question->title, -1, err));
        KM_GO(km_table_set_text(table, 2, question->description, -1, err));
        KM_GO(km_table_set_text(table, 3, question->parameters, -1, err));
        KM_GO(km_table_set_text(table, 4, question->sql, -1, err));
    }
    *out = table;
    table = NULL;
done:
    km_table_free(table);
    return status;
}
