/* score.c: whole continuations, and choosing tokens from rows of logits. */
#include "km/score.h"

#include <string.h>

#include "tick.h"
#include "wrap.h"

/* ---- continuations ---- */

/* Arguments ids (N), offsets (K+1), prompt_lengths (K) and batch_tokens; offsets end at N and never
 * fall. *scored is the number of tokens after the prompts. */
static bool read_continuations(km_args *in, km_continuations *out, int64_t *scored) {
    km_view ids, offsets, lengths;
    if (!km_arg_view(in, "ids", KM_I32, "(N)", &ids) ||
        !km_arg_view(in, "offsets", KM_I64, "(K+1)", &offsets) ||
        !km_arg_view(in, "prompt_lengths", KM_I64, "(K)", &lengths) ||
        !km_args_same_length(in, "prompt_lengths", lengths.n, "offsets[1:]", offsets.n - 1) ||
        !km_arg_int64(in, "batch_tokens", &out->batch_tokens)) {
        return false;
    }
    *out = (km_continuations){ids.data, offsets.data, lengths.data, lengths.n, out->batch_tokens};
    bool ok = out->offsets[0] == 0 && out->offsets[out->n] == ids.n;
    *scored = 0;
    for (int64_t i = 0; i < out->n && ok; i++) {
        const int64_t length = out->offsets[i + 1] - out->offsets[i];
        ok = length >= 0 && out->prompt_lengths[i] >= 0 && out->prompt_lengths[i] <= length;
        *scored += length - out->prompt_lengths[i];
    }
    if (!ok) {
        km_py_raise_format(in->errors, KM_EINVAL,
                           "%s(): offsets must rise from 0 to the number of ids, and no prompt may "
                           "be longer than its item",
                           in->signature->name);
    }
    return ok;
}

/* New arrays for what is wanted: token arrays (scored), item arrays (n). */
static PyObject *make_arrays(PyObject *module, km_continuation_scores *out, int64_t scored,
                             int64_t n) {
    PyObject *arrays[4] = {
        new_array(module, KM_F64, scored, -1, (void **)&out->logprobs),
        new_array(module, KM_BOOL, scored, -1, (void **)&out->is_argmax),
        new_array(module, KM_F64, n, -1, (void **)&out->sums),
        new_array(module, KM_BOOL, n, -1, (void **)&out->greedy),
    };
    return pack(arrays, 4);
}

static km_status run_with_progress(PyObject *progress, const km_continuation_scores *out,
                                   const km_model *model, const km_continuations *work,
                                   km_error *err) {
    km_py_tick tick;
    km_py_tick_begin(&tick, progress);
    km_status status = km_continuations_run(out, model, work, km_py_tick_call, &tick, err);
    km_py_tick_end(&tick);
    return status;
}

FUNCTION(continuations_run) {
    km_args in;
    km_model *model;
    km_continuations work = {0};
    km_continuation_scores out = {0};
    int64_t scored;
    PyObject *progress = NULL, *result = NULL;
    if (BIND(in, module, continuations_run) && model_arg(&in, module, &model) &&
        read_continuations(&in, &work, &scored) && km_arg_callable(&in, "progress", &progress) &&
        (result = make_arrays(module, &out, scored, work.n)) != NULL) {
        km_error err = KM_ERROR_INIT;
        km_status status = run_with_progress(progress, &out, model, &work, &err);
        result = finish(module, result, status, &err);
    }
    km_args_clear(&in);
    return result;
}

/* ---- rows of logits ---- */

/* A row operation and its results; run without the GIL. */
typedef struct rows_job {
    const km_model *model;
    km_view logits;
    int64_t k;
    km_sampling sampling;
    uint64_t seed;
    const uint64_t *streams, *counters;
    int32_t *ids;
    const int32_t *given;
    double *logprobs;
    float *out;
} rows_job;

static bool read_rows(km_args *in, PyObject *module, rows_job *job) {
    km_model *model;
    if (!model_arg(in, module, &model) ||
        !km_arg_view(in, "logits", KM_F32, "(B, V)", &job->logits)) {
        return false;
    }
    job->model = model;
    const int64_t vocab = km_model_config(model)->vocab_size;
    if (job->logits.shape[1] != vocab) {
        km_py_raise_format(in->errors, KM_ESHAPE,
                           "%s(): rows of %lld logits; the model's have %lld", in->signature->name,
                           (long long)job->logits.shape[1], (long long)vocab);
        return false;
    }
    return true;
}

static bool read_sampling(const km_args *in, km_sampling *out) {
    return km_arg_double(in, "temperature", &out->temperature) &&
           km_arg_int64(in, "top_k", &out->top_k) && km_arg_double(in, "top_p", &out->top_p) &&
           km_arg_double(in, "min_p", &out->min_p);
}

/* (ids, logprobs), each (B), or (B, k) where k is not negative. */
static PyObject *make_choice(PyObject *module, rows_job *job, int64_t k) {
    const int64_t n = job->logits.shape[0];
    PyObject *ids = new_array(module, KM_I32, n, k, (void **)&job->ids);
    PyObject *logprobs = new_array(module, KM_F64, n, k, (void **)&job->logprobs);
    PyObject *result = ids == NULL || logprobs == NULL ? NULL : PyTuple_Pack(2, ids, logprobs);
    Py_XDECREF(ids);
    Py_XDECREF(logprobs);
    return result;
}

typedef km_status (*rows_fn)(const rows_job *job, km_error *err);

static PyObject *run_rows(PyObject *module, PyObject *result, const rows_job *job, rows_fn fn) {
    km_error err = KM_ERROR_INIT;
    km_status status = KM_OK;
    if (result != NULL) {
        PyThreadState *thread = PyEval_SaveThread();
        status = fn(job, &err);
        PyEval_RestoreThread(thread);
    }
    return finish(module, result, status, &err);
}

static km_status take_argmax(const rows_job *job, km_error *err) {
    return km_rows_argmax(job->ids, job->logprobs, job->logits.data, job->logits.shape[0],
                          job->model, err);
}

static km_status take_top(const rows_job *job, km_error *err) {
    return km_rows_top(job->ids, job->logprobs, job->logits.data, job->logits.shape[0], job->k,
                       job->model, err);
}

static km_status take_at(const rows_job *job, km_error *err) {
    return km_rows_at(job->logprobs, job->given, job->logits.data, job->logits.shape[0], job->model,
                      err);
}

static km_status take_sample(const rows_job *job, km_error *err) {
    return km_rows_sample(job->ids, job->logprobs, job->logits.data, job->logits.shape[0],
                          &job->sampling, job->seed, job->streams, job->counters, job->model, err);
}

static km_status take_logprobs(const rows_job *job, km_error *err) {
    return km_rows_logprobs_into(job->out, job->logits.data, job->logits.shape[0], job->model, err);
}

static km_status take_filter(const rows_job *job, km_error *err) {
    return km_sampling_filter(job->out, job->logits.n, &job->sampling, km_model_ctx(job->model),
                              err);
}

FUNCTION(rows_argmax) {
    km_args in;
    rows_job job = {0};
    PyObject *result = NULL;
    if (BIND(in, module, rows_argmax) && read_rows(&in, module, &job)) {
        result = run_rows(module, make_choice(module, &job, -1), &job, take_argmax);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(rows_top) {
    km_args in;
    rows_job job = {0};
    PyObject *result = NULL;
    if (BIND(in, module, rows_top) && read_rows(&in, module, &job) &&
        km_arg_int64(&in, "k", &job.k)) {
        if (job.k < 1 || job.k > job.logits.shape[1]) {
            km_py_raise_format(in.errors, KM_ERANGE, "k is %lld; the vocabulary has %lld tokens",
                               (long long)job.k, (long long)job.logits.shape[1]);
        } else {
            result = run_rows(module, make_choice(module, &job, job.k), &job, take_top);
        }
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(rows_at) {
    km_args in;
    km_view ids;
    rows_job job = {0};
    PyObject *result = NULL;
    if (BIND(in, module, rows_at) && read_rows(&in, module, &job) &&
        km_arg_view(&in, "ids", KM_I32, "(B)", &ids) &&
        km_args_same_length(&in, "ids", ids.n, "logits", job.logits.shape[0]) &&
        (result = new_array(module, KM_F64, ids.n, -1, (void **)&job.logprobs)) != NULL) {
        job.given = ids.data;
        result = run_rows(module, result, &job, take_at);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(rows_sample) {
    km_args in;
    rows_job job = {.sampling = KM_SAMPLING_INIT};
    km_view streams, counters;
    PyObject *result = NULL;
    if (BIND(in, module, rows_sample) && read_rows(&in, module, &job) &&
        km_arg_view(&in, "streams", KM_I64, "(B)", &streams) &&
        km_arg_view(&in, "counters", KM_I64, "(B)", &counters) &&
        km_args_same_length(&in, "streams", streams.n, "logits", job.logits.shape[0]) &&
        km_args_same_length(&in, "counters", counters.n, "logits", job.logits.shape[0]) &&
        km_arg_uint64(&in, "seed", &job.seed) && read_sampling(&in, &job.sampling)) {
        job.streams = streams.data;
        job.counters = counters.data;
        result = run_rows(module, make_choice(module, &job, -1), &job, take_sample);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(rows_logprobs) {
    km_args in;
    rows_job job = {0};
    PyObject *result = NULL;
    if (BIND(in, module, rows_logprobs) && read_rows(&in, module, &job)) {
        result =
            new_array(module, KM_F32, job.logits.shape[0], job.logits.shape[1], (void **)&job.out);
        result = run_rows(module, result, &job, take_logprobs);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(sampling_filter) {
    km_args in;
    km_model *model;
    rows_job job = {.sampling = KM_SAMPLING_INIT};
    PyObject *result = NULL;
    if (BIND(in, module, sampling_filter) && model_arg(&in, module, &model) &&
        km_arg_view(&in, "logits", KM_F32, "(V)", &job.logits) &&
        read_sampling(&in, &job.sampling) &&
        (result = new_array(module, KM_F32, job.logits.n, -1, (void **)&job.out)) != NULL) {
        job.model = model;
        memcpy(job.out, job.logits.data, (size_t)job.logits.n * sizeof(float));
        result = run_rows(module, result, &job, take_filter);
    }
    km_args_clear(&in);
    return result;
}

PyMethodDef km_py_score_methods[] = {
    KM_METHOD("continuations_run", continuations_run, KM_DOC_continuations_run),
    KM_METHOD("rows_argmax", rows_argmax, KM_DOC_rows_argmax),
    KM_METHOD("rows_top", rows_top, KM_DOC_rows_top),
    KM_METHOD("rows_at", rows_at, KM_DOC_rows_at),
    KM_METHOD("rows_sample", rows_sample, KM_DOC_rows_sample),
    KM_METHOD("rows_logprobs", rows_logprobs, KM_DOC_rows_logprobs),
    KM_METHOD("sampling_filter", sampling_filter, KM_DOC_sampling_filter),
    {NULL, NULL, 0, NULL},
};
