/* memorization.c: measures that drive a model: recall and verbatim tokens. */
#include "km/memorization.h"

#include "tick.h"
#include "wrap.h"

/* The finished table, or the exception. */
static PyObject *wrap(PyObject *module, km_table *table, km_status status, const km_error *err) {
    km_state *state = KM_MODULE_STATE(module);
    return status == KM_OK ? km_py_table_wrap(state, table) : km_py_raise(&state->errors, err);
}

/* ---- recall ---- */

/* One fact: (id, subject, answers, candidates, shuffled). */
static bool read_fact(km_args *in, PyObject *object, km_recall_fact *out) {
    PyObject *fields = km_args_tuple(in, object, "facts");
    int64_t n_answers = 0, n_candidates = 0;
    if (fields == NULL) {
        return false;
    }
    if (PyTuple_Size(fields) != 5) {
        return km_args_type_error(in, "facts",
                                  "tuples of (id, subject, answers, candidates, shuffled)", object);
    }
    PyObject *names = PyTuple_GetSlice(fields, 0, 2);
    const char *const *texts;
    int64_t n = 0;
    bool ok =
        names != NULL && km_args_hold(in, names) &&
        km_args_strings(in, names, "facts", &texts, &n) &&
        km_args_strings(in, PyTuple_GetItem(fields, 2), "answers", &out->answers, &n_answers) &&
        km_args_strings(in, PyTuple_GetItem(fields, 3), "candidates", &out->candidates,
                        &n_candidates);
    Py_XDECREF(names);
    if (!ok) {
        return false;
    }
    out->id = texts[0];
    out->subject = texts[1];
    out->n_answers = (int)n_answers;
    out->n_candidates = (int)n_candidates;
    out->shuffled = PyLong_AsLongLong(PyTuple_GetItem(fields, 4));
    return PyErr_Occurred() == NULL;
}

static bool read_facts(km_args *in, km_recall_relation *relation) {
    PyObject *facts = km_args_tuple(in, km_arg_object(in, "facts"), "facts");
    if (facts == NULL) {
        return false;
    }
    relation->n_facts = PyTuple_Size(facts);
    km_recall_fact *items =
        km_args_alloc(in, (size_t)relation->n_facts + 1, sizeof(km_recall_fact));
    relation->facts = items;
    for (int64_t i = 0; items != NULL && i < relation->n_facts; i++) {
        if (!read_fact(in, PyTuple_GetItem(facts, i), &items[i])) {
            return false;
        }
    }
    return items != NULL;
}

static bool read_relation(km_args *in, km_recall_relation *relation) {
    int64_t n_templates = 0;
    if (!km_arg_str(in, "name", &relation->name) ||
        !km_arg_strings(in, "templates", &relation->templates, &n_templates) ||
        !km_arg_str(in, "subjectless", &relation->subjectless)) {
        return false;
    }
    relation->n_templates = (int)n_templates;
    return read_facts(in, relation);
}

static bool read_options(const km_args *in, km_recall_options *options) {
    bool bos = false;
    if (!km_arg_bool(in, "bos", &bos) ||
        !km_arg_int64(in, "batch_tokens", &options->batch_tokens) ||
        !km_arg_bool(in, "lens", &options->lens)) {
        return false;
    }
    if (km_arg_object(in, "bos") != NULL) {
        options->bos = bos ? KM_BOS_ALWAYS : KM_BOS_NEVER;
    }
    return true;
}

FUNCTION(memorization_run) {
    km_args in;
    km_model *model;
    km_recall_relation relation = {0};
    km_recall_options options = KM_RECALL_OPTIONS_INIT;
    PyObject *progress = NULL, *result = NULL;
    if (BIND(in, module, memorization_run) && model_arg(&in, module, &model) &&
        read_relation(&in, &relation) && read_options(&in, &options) &&
        km_arg_callable(&in, "progress", &progress)) {
        km_error err = KM_ERROR_INIT;
        km_table *table = NULL;
        km_py_tick tick;
        km_py_tick_begin(&tick, progress);
        km_status status =
            km_memorization_run(&table, model, &relation, &options, km_py_tick_call, &tick, &err);
        km_py_tick_end(&tick);
        result = wrap(module, table, status, &err);
    }
    km_args_clear(&in);
    return result;
}

/* ---- verbatim tokens ---- */

/* Arguments ids (N), offsets (K+1) and batch_tokens; offsets must end at N. */
typedef struct packed_texts {
    km_view ids, offsets;
    int64_t n, batch_tokens;
} packed_texts;

static bool read_texts(km_args *in, packed_texts *out) {
    out->batch_tokens = 1024;
    if (!km_arg_view(in, "ids", KM_I32, "(N)", &out->ids) ||
        !km_arg_view(in, "offsets", KM_I64, "(K)", &out->offsets) ||
        !km_arg_int64(in, "batch_tokens", &out->batch_tokens)) {
        return false;
    }
    out->n = out->offsets.n - 1;
    const int64_t *offsets = out->offsets.data;
    if (out->n < 0 || offsets[0] != 0 || offsets[out->n] != out->ids.n || out->batch_tokens < 1) {
        km_py_raise_format(in->errors, KM_EINVAL,
                           "%s(): offsets must go from 0 to the number of ids, and batch_tokens "
                           "must be positive",
                           in->signature->name);
        return false;
    }
    return true;
}

FUNCTION(verbatim_run) {
    km_args in;
    km_model *model;
    packed_texts texts;
    PyObject *progress = NULL, *result = NULL;
    if (BIND(in, module, verbatim_run) && model_arg(&in, module, &model) &&
        read_texts(&in, &texts) && km_arg_callable(&in, "progress", &progress)) {
        km_error err = KM_ERROR_INIT;
        km_table *table = NULL;
        km_py_tick tick;
        km_py_tick_begin(&tick, progress);
        km_status status =
            km_verbatim_run(&table, model, texts.ids.data, texts.offsets.data, texts.n,
                            texts.batch_tokens, km_py_tick_call, &tick, &err);
        km_py_tick_end(&tick);
        result = wrap(module, table, status, &err);
    }
    km_args_clear(&in);
    return result;
}

PyMethodDef km_py_memorization_methods[] = {
    KM_METHOD("memorization_run", memorization_run, KM_DOC_memorization_run),
    KM_METHOD("verbatim_run", verbatim_run, KM_DOC_verbatim_run),
    {NULL, NULL, 0, NULL},
};
