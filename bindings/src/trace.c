/* trace.c: one forward pass that keeps the activations asked for, in one block of memory that the
 * arrays of a km.Trace are views of; and the list of points a model has. */
#include "doors.h"
#include "tick.h"
#include "wrap.h"

/* Columns of `rows` (R, 2) and `targets` (M, 3), int64; offsets are in the block, floats. */
enum { ROW_NODE = 0, ROW_OFFSET /* -1: none */, ROW_COLUMNS };
enum { TARGET_ROW = 0, TARGET_ID, TARGET_OFFSET, TARGET_COLUMNS };

typedef struct trace_job {
    km_py_pass pass;
    float *block;
    int64_t n_block;
    km_view rows, targets;
    int64_t *nodes;        /* (R) of the rows */
    int64_t *first_target; /* (R + 1) */
} trace_job;

/* ---- what is kept of a row of logits ---- */

static km_status keep_logprobs(void *payload, int64_t index, int32_t layer, const float *logits,
                               int64_t vocab, km_error *err) {
    (void)layer;
    (void)err;
    const trace_job *job = payload;
    const double total = km_logits_logsumexp(job->pass.model, logits, vocab);
    const int64_t offset = ((const int64_t *)job->rows.data)[index * ROW_COLUMNS + ROW_OFFSET];
    for (int64_t i = 0; offset >= 0 && i < vocab; i++) {
        job->block[offset + i] = (float)((double)logits[i] - total);
    }
    for (int64_t i = job->first_target[index]; i < job->first_target[index + 1]; i++) {
        const int64_t *target = (const int64_t *)job->targets.data + i * TARGET_COLUMNS;
        job->block[target[TARGET_OFFSET]] = (float)((double)logits[target[TARGET_ID]] - total);
    }
    return KM_OK;
}

static km_status run(void *payload, km_error *err) {
    const trace_job *job = payload;
    return km_model_forward(job->pass.model, &job->pass.request, err);
}

/* ---- arguments ---- */

static bool refuse(const km_args *in, const char *name, int64_t row) {
    km_py_raise_format(in->errors, KM_EINVAL, "%s(): '%s' row %lld is out of range or order",
                       in->signature->name, name, (long long)row);
    return false;
}

static bool read_rows(km_args *in, trace_job *job) {
    const int64_t vocab = km_model_config(job->pass.model)->vocab_size;
    const int64_t n = job->rows.shape[0];
    job->nodes = km_args_alloc(in, (size_t)n + 1, sizeof *job->nodes);
    for (int64_t i = 0; job->nodes != NULL && i < n; i++) {
        const int64_t *row = (const int64_t *)job->rows.data + i * ROW_COLUMNS;
        job->nodes[i] = row[ROW_NODE];
        if (row[ROW_OFFSET] >= 0 && row[ROW_OFFSET] > job->n_block - vocab) {
            return refuse(in, "rows", i);
        }
    }
    job->pass.request.rows = job->nodes;
    job->pass.request.n_rows = n;
    return job->nodes != NULL;
}

/* Targets come in the order of their rows. */
static bool read_targets(km_args *in, trace_job *job) {
    const int64_t n = job->targets.shape[0], n_rows = job->rows.shape[0];
    const int64_t vocab = km_model_config(job->pass.model)->vocab_size;
    int64_t done = 0;
    job->first_target = km_args_alloc(in, (size_t)n_rows + 2, sizeof *job->first_target);
    for (int64_t i = 0; job->first_target != NULL && i < n; i++) {
        const int64_t *target = (const int64_t *)job->targets.data + i * TARGET_COLUMNS;
        if (target[TARGET_ROW] < done || target[TARGET_ROW] >= n_rows || target[TARGET_ID] < 0 ||
            target[TARGET_ID] >= vocab || target[TARGET_OFFSET] < 0 ||
            target[TARGET_OFFSET] >= job->n_block) {
            return refuse(in, "targets", i);
        }
        for (; done < target[TARGET_ROW]; done++) {
            job->first_target[done + 1] = i;
        }
    }
    for (; job->first_target != NULL && done < n_rows; done++) {
        job->first_target[done + 1] = n;
    }
    return job->first_target != NULL;
}

static bool read_outputs(km_args *in, trace_job *job) {
    if (!km_arg_view(in, "rows", KM_I64, "(R, 2)", &job->rows) ||
        !km_arg_view(in, "targets", KM_I64, "(M, 3)", &job->targets)) {
        return false;
    }
    if (job->rows.shape[1] != ROW_COLUMNS || job->targets.shape[1] != TARGET_COLUMNS) {
        km_py_raise_format(in->errors, KM_ESHAPE,
                           "%s(): 'rows' must be (R, 2) and 'targets' (M, 3)", in->signature->name);
        return false;
    }
    job->pass.request.on_logits = keep_logprobs;
    job->pass.request.payload = job;
    return read_rows(in, job) && read_targets(in, job);
}

/* The block of results, zeroed. */
static PyObject *new_block(const km_args *in, km_state *state, trace_job *job) {
    void *data = NULL;
    PyObject *block = NULL;
    if (km_arg_int64(in, "n_out", &job->n_block)) {
        block = km_array_new(state->types[KM_TYPE_ARRAY], KM_F32, 1, &job->n_block, &data);
    }
    job->block = data;
    return block;
}

FUNCTION(trace_run) {
    km_state *state = KM_MODULE_STATE(module);
    km_args in;
    trace_job job = {.n_block = 0};
    PyObject *block = NULL;
    bool done = BIND(in, module, trace_run) &&
                km_py_pass_read(&in, state->types[KM_TYPE_MODEL], &job.pass) &&
                (block = new_block(&in, state, &job)) != NULL &&
                km_py_pass_reads(&in, "reads", &job.pass, job.block, job.n_block,
                                 &job.pass.request.reads, &job.pass.request.n_reads) &&
                read_outputs(&in, &job) &&
                km_py_run(&state->errors, km_model_ctx(job.pass.model), run, &job, NULL);
    if (!done) {
        Py_CLEAR(block);
    }
    km_args_clear(&in);
    return block;
}

/* ---- the points ---- */

static PyObject *describe_point(km_point point, const km_config *config) {
    return Py_BuildValue(
        "(sNNLL)", km_point_name(point), PyBool_FromLong(km_point_exists(point, config)),
        PyBool_FromLong(km_point_has_layer(point)), (long long)km_point_heads(point, config),
        (long long)km_point_width(point, config, 0));
}

FUNCTION(trace_point) {
    km_args in;
    const char *name = NULL;
    PyObject *result = NULL;
    if (BIND(in, module, trace_point) && km_arg_str(&in, "name", &name)) {
        km_error err = KM_ERROR_INIT;
        km_point point = KM_POINT_EMBED;
        km_status status = km_point_parse(&point, name, &err);
        result = status == KM_OK ? PyBool_FromLong(km_point_has_layer(point))
                                 : km_py_raise(ERRORS(module), &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(trace_points) {
    km_args in;
    km_model *model;
    PyObject *result = NULL;
    if (BIND(in, module, trace_points) && model_arg(&in, module, &model)) {
        const km_config *config = km_model_config(model);
        result = PyList_New(KM_N_POINTS);
        for (int i = 0; result != NULL && i < KM_N_POINTS; i++) {
            PyObject *point = describe_point((km_point)i, config);
            if (point == NULL || PyList_SetItem(result, i, point) < 0) {
                Py_CLEAR(result);
            }
        }
    }
    km_args_clear(&in);
    return result;
}

PyMethodDef km_py_trace_methods[] = {
    KM_METHOD("trace_run", trace_run, KM_DOC_trace_run),
    KM_METHOD("trace_point", trace_point, KM_DOC_trace_point),
    KM_METHOD("trace_points", trace_points, KM_DOC_trace_points),
    {NULL, NULL, 0, NULL},
};
