/* gradient.c: gradients at named points, knowledge neurons, knowledge circuits. */
#include "km/gradient.h"

#include <string.h>

#include "doors.h"
#include "km/circuit.h"
#include "km/neurons.h"
#include "tick.h"
#include "wrap.h"

/* ---- gradients_run ---- */

typedef struct gradients_job {
    km_py_pass pass;
    km_gradient_request request;
    km_target_loss loss;
    float *block;
    int64_t n_block;
} gradients_job;

static km_status run(void *payload, km_error *err) {
    const gradients_job *job = payload;
    return km_model_gradients(job->pass.model, &job->request, err);
}

static bool refuse(const km_args *in, const char *why) {
    km_py_raise_format(in->errors, KM_EINVAL, "%s(): %s", in->signature->name, why);
    return false;
}

static bool read_kind(const km_args *in, km_target_kind *kind) {
    static const char *const NAMES[] = {"logit", "logprob", "prob"};
    const char *name = NULL;
    if (!km_arg_str(in, "kind", &name)) {
        return false;
    }
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, NAMES[i]) == 0) {
            *kind = (km_target_kind)i;
            return true;
        }
    }
    return refuse(in, "'kind' must be 'logit', 'logprob' or 'prob'");
}

/* Rows must rise, so that a row's targets are found by bisection. */
static bool read_targets(km_args *in, gradients_job *job, int64_t n_rows) {
    km_view table, weights;
    if (!km_arg_view(in, "targets", KM_I64, "(S, 2)", &table) ||
        !km_arg_view(in, "weights", KM_F64, "(S)", &weights) ||
        !km_args_same_length(in, "targets", table.shape[0], "weights", weights.n)) {
        return false;
    }
    if (table.shape[1] != 2) {
        return refuse(in, "'targets' must be (S, 2)");
    }
    km_target *targets = km_args_alloc(in, (size_t)weights.n + 1, sizeof *targets);
    for (int64_t i = 0; targets != NULL && i < weights.n; i++) {
        const int64_t *row = (const int64_t *)table.data + 2 * i;
        if (row[0] < (i == 0 ? 0 : row[-2]) || row[0] >= n_rows || row[1] < 0 ||
            row[1] >= km_model_config(job->pass.model)->vocab_size) {
            return refuse(in, "'targets' must name rows in rising order and ids of the vocabulary");
        }
        targets[i] = (km_target){row[0], (int32_t)row[1], ((const double *)weights.data)[i]};
    }
    job->loss.targets = targets;
    job->loss.n_targets = weights.n;
    return targets != NULL;
}

static bool read_loss(km_args *in, gradients_job *job, PyObject *module, PyObject **losses) {
    km_view rows;
    void *data = NULL;
    if (!km_arg_view(in, "rows", KM_I64, "(Q)", &rows) || !read_kind(in, &job->loss.kind) ||
        !read_targets(in, job, rows.n)) {
        return false;
    }
    *losses = new_array(module, KM_F64, rows.n, -1, &data);
    job->loss.model = job->pass.model;
    job->loss.losses = data;
    job->request.forward = job->pass.request;
    job->request.forward.rows = rows.data;
    job->request.forward.n_rows = rows.n;
    job->request.loss = km_target_loss_row;
    job->request.payload = &job->loss;
    return *losses != NULL;
}

/* The block of results, zeroed, and who writes where. */
static bool read_doors(km_args *in, gradients_job *job, PyObject *module, PyObject **block) {
    void *data = NULL;
    if (!km_arg_int64(in, "n_out", &job->n_block)) {
        return false;
    }
    *block = new_array(module, KM_F32, job->n_block, -1, &data);
    job->block = data;
    return *block != NULL &&
           km_py_pass_reads(in, "reads", &job->pass, job->block, job->n_block,
                            &job->pass.request.reads, &job->pass.request.n_reads) &&
           km_py_pass_reads(in, "gradients", &job->pass, job->block, job->n_block,
                            &job->request.gradients, &job->request.n_gradients);
}

FUNCTION(gradients_run) {
    km_state *state = KM_MODULE_STATE(module);
    km_args in;
    gradients_job job = {.n_block = 0};
    PyObject *block = NULL, *losses = NULL, *result = NULL;
    if (BIND(in, module, gradients_run) &&
        km_py_pass_read(&in, state->types[KM_TYPE_MODEL], &job.pass) &&
        read_doors(&in, &job, module, &block) && read_loss(&in, &job, module, &losses) &&
        km_py_run(&state->errors, km_model_ctx(job.pass.model), run, &job, NULL)) {
        result = PyTuple_Pack(2, block, losses);
    }
    Py_XDECREF(block);
    Py_XDECREF(losses);
    km_args_clear(&in);
    return result;
}

/* ---- neurons_run ---- */

/* (attribution, activation, without, completeness) of the model's layers. */
static PyObject *neuron_arrays(PyObject *module, const km_model *model, km_neurons_arrays *out) {
    const km_config *config = km_model_config(model);
    const int64_t layers = config->n_layers, f = config->d_ffn;
    PyObject *arrays[4] = {
        new_array(module, KM_F64, layers, f, (void **)&out->attribution),
        new_array(module, KM_F32, layers, f, (void **)&out->activation),
        new_array(module, KM_F64, layers, -1, (void **)&out->without),
        new_array(module, KM_F64, layers, -1, (void **)&out->completeness),
    };
    return pack(arrays, 4);
}

/* The four arrays and the probability as one tuple; steals arrays. */
static PyObject *with_probability(PyObject *arrays, double probability) {
    PyObject *result = NULL;
    if (arrays != NULL) {
        result = Py_BuildValue("(OOOOd)", PyTuple_GetItem(arrays, 0), PyTuple_GetItem(arrays, 1),
                               PyTuple_GetItem(arrays, 2), PyTuple_GetItem(arrays, 3), probability);
    }
    Py_XDECREF(arrays);
    return result;
}

FUNCTION(neurons_run) {
    km_args in;
    km_model *model;
    km_view ids;
    km_neurons_arrays out = {0};
    km_neurons_options options = KM_NEURONS_OPTIONS_INIT;
    int target = 0, steps = options.steps;
    bool midpoint = false;
    PyObject *progress = NULL, *result = NULL;
    if (BIND(in, module, neurons_run) && model_arg(&in, module, &model) &&
        km_arg_view(&in, "ids", KM_I32, "(T)", &ids) && km_arg_int(&in, "target", &target) &&
        km_arg_int(&in, "steps", &steps) && km_arg_bool(&in, "midpoint", &midpoint) &&
        km_arg_callable(&in, "progress", &progress) &&
        (result = neuron_arrays(module, model, &out)) != NULL) {
        km_error err = KM_ERROR_INIT;
        km_py_tick tick;
        options.steps = steps;
        options.rule = midpoint ? KM_RIEMANN_MIDPOINT : KM_RIEMANN_LEFT;
        km_py_tick_begin(&tick, progress);
        km_status status = km_neurons_run_into(&out, model, ids.data, ids.n, target, &options,
                                               km_py_tick_call, &tick, &err);
        km_py_tick_end(&tick);
        result = with_probability(finish(module, result, status, &err), out.probability);
    }
    km_args_clear(&in);
    return result;
}

/* ---- circuits ---- */

static bool read_task(km_args *in, km_circuit_task *task) {
    km_view clean, corrupted;
    int good = 0, bad = 0;
    if (!km_arg_view(in, "clean", KM_I32, "(T)", &clean) ||
        !km_arg_view(in, "corrupted", KM_I32, "(T)", &corrupted) ||
        !km_args_same_length(in, "clean", clean.n, "corrupted", corrupted.n) ||
        !km_arg_int(in, "good", &good) || !km_arg_int(in, "bad", &bad)) {
        return false;
    }
    *task = (km_circuit_task){clean.data, corrupted.data, clean.n, good, bad};
    return true;
}

FUNCTION(circuit_run) {
    km_args in;
    km_model *model;
    km_table *table = NULL;
    km_circuit_task task;
    km_circuit_options options = KM_CIRCUIT_OPTIONS_INIT;
    int steps = options.steps;
    PyObject *progress = NULL, *result = NULL;
    if (BIND(in, module, circuit_run) && model_arg(&in, module, &model) && read_task(&in, &task) &&
        km_arg_int(&in, "steps", &steps) && km_arg_int64(&in, "top", &options.top) &&
        km_arg_callable(&in, "progress", &progress)) {
        km_error err = KM_ERROR_INIT;
        km_py_tick tick;
        options.steps = steps;
        km_py_tick_begin(&tick, progress);
        km_status status =
            km_circuit_run(&table, model, &task, &options, km_py_tick_call, &tick, &err);
        km_py_tick_end(&tick);
        result = status == KM_OK ? km_py_table_wrap(KM_MODULE_STATE(module), table)
                                 : km_py_raise(ERRORS(module), &err);
    }
    km_args_clear(&in);
    return result;
}

typedef struct evaluate_job {
    km_table *out;
    const km_model *model;
    km_circuit_task task;
    km_view sources, targets;
} evaluate_job;

static km_status evaluate(void *payload, km_error *err) {
    evaluate_job *job = payload;
    return km_circuit_evaluate(&job->out, job->model, &job->task, job->sources.data,
                               job->targets.data, job->sources.n, err);
}

FUNCTION(circuit_evaluate) {
    km_state *state = KM_MODULE_STATE(module);
    km_args in;
    km_model *model;
    evaluate_job job = {.out = NULL};
    PyObject *result = NULL;
    if (BIND(in, module, circuit_evaluate) && model_arg(&in, module, &model) &&
        read_task(&in, &job.task) && km_arg_view(&in, "sources", KM_I32, "(E)", &job.sources) &&
        km_arg_view(&in, "targets", KM_I32, "(E)", &job.targets) &&
        km_args_same_length(&in, "sources", job.sources.n, "targets", job.targets.n)) {
        job.model = model;
        if (km_py_run(&state->errors, km_model_ctx(model), evaluate, &job, NULL)) {
            result = km_py_table_wrap(state, job.out);
            job.out = NULL;
        }
        km_table_free(job.out); /* done, but a signal came */
    }
    km_args_clear(&in);
    return result;
}

PyMethodDef km_py_gradient_methods[] = {
    KM_METHOD("gradients_run", gradients_run, KM_DOC_gradients_run),
    KM_METHOD("neurons_run", neurons_run, KM_DOC_neurons_run),
    KM_METHOD("circuit_run", circuit_run, KM_DOC_circuit_run),
    KM_METHOD("circuit_evaluate", circuit_evaluate, KM_DOC_circuit_evaluate),
    {NULL, NULL, 0, NULL},
};
