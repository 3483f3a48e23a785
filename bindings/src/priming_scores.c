/* priming_scores.c: the pure functions of km/priming_scores.h on arrays. */
#include "km/priming_scores.h"

#include <string.h>

#include "tick.h"
#include "wrap.h"

/* ---- scores ---- */

FUNCTION(score_priming) {
    km_args in;
    km_view before, after;
    double context_before = 0, context_after = 0, log_unstable = 0;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, score_priming) && km_arg_double(&in, "context_before", &context_before) &&
        km_arg_double(&in, "context_after", &context_after) &&
        km_arg_view(&in, "before", KM_F64, "(M)", &before) &&
        km_arg_view(&in, "after", KM_F64, "(M)", &after) &&
        km_args_same_length(&in, "before", before.n, "after", after.n) &&
        km_arg_double(&in, "log_unstable", &log_unstable) && (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        km_priming_score out;
        km_status status = km_score_priming(&out, ctx, context_before, context_after, before.data,
                                            after.data, before.n, log_unstable, &err);
        result = status == KM_OK
                     ? Py_BuildValue("(ddddddLLL)", out.log_s_mem, out.log_s_prime,
                                     out.log_s_prime_stable, out.mean_log_ratio,
                                     out.median_log_ratio, out.mean_delta_p, (long long)out.n,
                                     (long long)out.n_dropped, (long long)out.n_unstable)
                     : km_py_raise(ERRORS(module), &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(score_priming_predictor) {
    km_args in;
    km_view keyword, prime;
    double threshold = 0;
    bool *surprising;
    km_ctx *ctx;
    PyObject *flags = NULL, *result = NULL;
    if (BIND(in, module, score_priming_predictor) &&
        km_arg_view(&in, "log_keyword", KM_F64, "(N)", &keyword) &&
        km_arg_view(&in, "log_s_prime", KM_F64, "(N)", &prime) &&
        km_args_same_length(&in, "log_keyword", keyword.n, "log_s_prime", prime.n) &&
        km_arg_double(&in, "threshold", &threshold) && (ctx = context_of(module)) &&
        (flags = new_array(module, KM_BOOL, keyword.n, -1, (void **)&surprising))) {
        km_error err = KM_ERROR_INIT;
        km_priming_prediction out;
        km_status status = km_score_priming_predictor(&out, surprising, ctx, keyword.data,
                                                      prime.data, keyword.n, threshold, &err);
        result = status == KM_OK ? Py_BuildValue("(ddLddO)", out.pearson, out.spearman,
                                                 (long long)out.n_surprising, out.mean_surprising,
                                                 out.mean_unsurprising, flags)
                                 : km_py_raise(ERRORS(module), &err);
    }
    Py_XDECREF(flags);
    km_args_clear(&in);
    return result;
}

/* ---- pruning ---- */

typedef struct prune_job {
    km_prune_tensor *tensors;
    Py_buffer *buffers; /* (2 n) released by job_clear */
    int64_t n, n_buffers;
    km_prune_options options;
    km_ctx *ctx;
    bool *mask; /* NULL: prune_apply */
    int64_t *counts;
} prune_job;

static bool refuse(const km_args *in, const char *what, int64_t index, const char *why) {
    km_py_raise_format(in->errors, KM_ESHAPE, "%s(): %s[%lld] %s", in->signature->name, what,
                       (long long)index, why);
    return false;
}

/* One array of float32 or float64, the type of the first; NULL with an exception. */
static const Py_buffer *take(km_args *in, prune_job *job, PyObject *value, const char *what,
                             int64_t index, int flags) {
    Py_buffer *buffer = &job->buffers[job->n_buffers];
    if (PyObject_GetBuffer(value, buffer, flags | PyBUF_C_CONTIGUOUS | PyBUF_FORMAT) < 0) {
        return NULL;
    }
    job->n_buffers++;
    const char *format = buffer->format == NULL ? "B" : buffer->format;
    bool float64 = strcmp(format, "d") == 0;
    if (job->n_buffers == 1) {
        job->options.float64 = float64;
    }
    if ((!float64 && strcmp(format, "f") != 0) || float64 != job->options.float64) {
        refuse(in, what, index, "must be float32 or float64, the same as all others");
        return NULL;
    }
    return buffer;
}

static bool take_tensor(km_args *in, prune_job *job, int64_t i, PyObject *values, PyObject *base) {
    km_prune_tensor *tensor = &job->tensors[i];
    const Py_buffer *after =
        take(in, job, values, base != NULL ? "values" : "changes", i, base ? PyBUF_WRITABLE : 0);
    if (after == NULL) {
        return false;
    }
    tensor->values = after->buf;
    tensor->n = after->len / after->itemsize;
    const Py_buffer *before = base == NULL ? NULL : take(in, job, base, "base", i, 0);
    if (before != NULL && before->len != after->len) {
        return refuse(in, "base", i, "has another size than its values");
    }
    tensor->base = before != NULL ? before->buf : NULL;
    return before != NULL || base == NULL;
}

static bool read_names(km_args *in, prune_job *job) {
    const char *const *names;
    int64_t n = 0;
    if (!km_arg_strings(in, "names", &names, &n)) {
        return false;
    }
    if (n != 0 && !km_args_same_length(in, "values", job->n, "names", n)) {
        return false;
    }
    for (int64_t i = 0; i < n; i++) {
        job->tensors[i].name = names[i];
    }
    return true;
}

/* The tensors of the parameters `what` and, if there is one, `base`. */
static bool read_tensors(km_args *in, prune_job *job, const char *what) {
    PyObject *before = km_arg_object(in, "base");
    PyObject *values = km_args_tuple(in, km_arg_object(in, what), what);
    PyObject *base = before == NULL ? NULL : km_args_tuple(in, before, "base");
    if (values == NULL || (before != NULL && base == NULL)) {
        return false;
    }
    job->n = PyTuple_Size(values);
    if (base != NULL && !km_args_same_length(in, what, job->n, "base", PyTuple_Size(base))) {
        return false;
    }
    job->tensors = km_args_alloc(in, (size_t)job->n, sizeof *job->tensors);
    job->buffers = km_args_alloc(in, 2 * (size_t)job->n, sizeof *job->buffers);
    bool good = job->tensors != NULL && job->buffers != NULL;
    for (int64_t i = 0; good && i < job->n; i++) {
        good = take_tensor(in, job, i, PyTuple_GetItem(values, i),
                           base == NULL ? NULL : PyTuple_GetItem(base, i));
    }
    return good;
}

static bool read_options(const km_args *in, km_prune_options *options) {
    bool is_signed = false;
    bool good = km_arg_double(in, "low", &options->low) &&
                km_arg_double(in, "high", &options->high) &&
                km_arg_bool(in, "keep", &options->keep) && km_arg_bool(in, "signed", &is_signed) &&
                km_arg_bool(in, "together", &options->global);
    options->key = is_signed ? KM_PRUNE_SIGNED : KM_PRUNE_ABS;
    return good;
}

static km_status run(void *payload, km_error *err) {
    const prune_job *job = payload;
    if (job->mask != NULL) {
        return km_prune_mask_into(job->mask, job->counts, job->ctx, job->tensors, job->n,
                                  &job->options, err);
    }
    return km_prune_apply(job->counts, job->ctx, job->tensors, job->n, &job->options, err);
}

static void job_clear(prune_job *job, km_args *in) {
    for (int64_t i = 0; i < job->n_buffers; i++) {
        PyBuffer_Release(&job->buffers[i]);
    }
    km_args_clear(in);
}

FUNCTION(prune_apply) {
    km_args in;
    prune_job job = {.n = 0};
    PyObject *counts = NULL, *result = NULL;
    if (BIND(in, module, prune_apply) && read_options(&in, &job.options) &&
        read_tensors(&in, &job, "values") && read_names(&in, &job) &&
        (job.ctx = context_of(module)) &&
        (counts = new_array(module, KM_I64, job.n, -1, (void **)&job.counts)) &&
        km_py_run(ERRORS(module), job.ctx, run, &job, NULL)) {
        result = Py_NewRef(counts);
    }
    Py_XDECREF(counts);
    job_clear(&job, &in);
    return result;
}

FUNCTION(prune_mask) {
    km_args in;
    prune_job job = {.n = 0};
    int64_t total = 0;
    PyObject *mask = NULL, *result = NULL;
    if (BIND(in, module, prune_mask) && read_options(&in, &job.options) &&
        read_tensors(&in, &job, "changes") && (job.ctx = context_of(module))) {
        for (int64_t i = 0; i < job.n; i++) {
            total += job.tensors[i].n;
        }
        mask = new_array(module, KM_BOOL, total, -1, (void **)&job.mask);
        if (mask != NULL && km_py_run(ERRORS(module), job.ctx, run, &job, NULL)) {
            result = Py_NewRef(mask);
        }
    }
    Py_XDECREF(mask);
    job_clear(&job, &in);
    return result;
}

#define ENTRY(name) KM_METHOD(#name, name, KM_DOC_##name)

PyMethodDef km_py_priming_scores_methods[] = {
    ENTRY(score_priming), ENTRY(score_priming_predictor), ENTRY(prune_apply),
    ENTRY(prune_mask),    {NULL, NULL, 0, NULL},
};
