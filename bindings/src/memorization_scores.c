/* memorization_scores.c: the pure scores of km/memorization_scores.h on arrays. */
#include <math.h>

#include "km/memorization_scores.h"
#include "wrap.h"

FUNCTION(token_logprobs) {
    km_args in;
    km_view logits, ids;
    double *data;
    PyObject *result = NULL;
    if (BIND(in, module, score_token_logprobs) &&
        km_arg_view(&in, "logits", KM_F64, "(T, V)", &logits) &&
        km_arg_view(&in, "ids", KM_I32, "(T)", &ids) &&
        km_args_same_length(&in, "logits", logits.shape[0], "ids", ids.n) &&
        (result = new_array(module, KM_F64, ids.n > 0 ? ids.n - 1 : 0, -1, (void **)&data))) {
        km_error err = KM_ERROR_INIT;
        km_status status =
            km_score_token_logprobs_into(data, logits.data, ids.data, ids.n, logits.shape[1], &err);
        result = finish(module, result, status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(token_moments) {
    km_args in;
    km_view logits;
    double *mu, *sigma2;
    PyObject *first = NULL, *second = NULL, *result = NULL;
    if (BIND(in, module, score_token_moments) &&
        km_arg_view(&in, "logits", KM_F64, "(N, V)", &logits) &&
        (first = new_array(module, KM_F64, logits.shape[0], -1, (void **)&mu)) &&
        (second = new_array(module, KM_F64, logits.shape[0], -1, (void **)&sigma2))) {
        km_error err = KM_ERROR_INIT;
        km_status status = km_score_token_moments_into(mu, sigma2, logits.data, logits.shape[0],
                                                       logits.shape[1], &err);
        result = finish(module, PyTuple_Pack(2, first, second), status, &err);
    }
    Py_XDECREF(first);
    Py_XDECREF(second);
    km_args_clear(&in);
    return result;
}

FUNCTION(loss) {
    km_args in;
    km_view logprobs;
    PyObject *result = NULL;
    if (BIND(in, module, score_loss) && km_arg_view(&in, "logprobs", KM_F64, "(N)", &logprobs)) {
        result = PyFloat_FromDouble(km_score_loss(logprobs.data, logprobs.n));
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(min_k) {
    km_args in;
    km_view logprobs;
    double ratio = 0, out;
    bool at_least_one = false;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, score_min_k) && km_arg_view(&in, "logprobs", KM_F64, "(N)", &logprobs) &&
        km_arg_double(&in, "ratio", &ratio) && km_arg_bool(&in, "at_least_one", &at_least_one) &&
        (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        km_status status =
            km_score_min_k(&out, ctx, logprobs.data, logprobs.n, ratio, at_least_one, &err);
        result = from_double(module, out, status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(min_k_plus_plus) {
    km_args in;
    km_view logprobs, mu, sigma2;
    double ratio = 0, out;
    bool at_least_one = false;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, score_min_k_plus_plus) &&
        km_arg_view(&in, "logprobs", KM_F64, "(N)", &logprobs) &&
        km_arg_view(&in, "mu", KM_F64, "(N)", &mu) &&
        km_arg_view(&in, "sigma2", KM_F64, "(N)", &sigma2) && km_arg_double(&in, "ratio", &ratio) &&
        km_arg_bool(&in, "at_least_one", &at_least_one) &&
        km_args_same_length(&in, "logprobs", logprobs.n, "mu", mu.n) &&
        km_args_same_length(&in, "logprobs", logprobs.n, "sigma2", sigma2.n) &&
        (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        km_status status = km_score_min_k_plus_plus(&out, ctx, logprobs.data, mu.data, sigma2.data,
                                                    logprobs.n, ratio, at_least_one, &err);
        result = from_double(module, out, status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(detection) {
    km_args in;
    km_view scores, member;
    double tpr = 0, fpr = 0;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, score_detection) && km_arg_view(&in, "scores", KM_F64, "(N)", &scores) &&
        km_arg_view(&in, "member", KM_BOOL, "(N)", &member) && km_arg_double(&in, "tpr", &tpr) &&
        km_arg_double(&in, "fpr", &fpr) &&
        km_args_same_length(&in, "scores", scores.n, "member", member.n) &&
        (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        km_detection out;
        km_status status =
            km_score_detection(&out, ctx, scores.data, member.data, scores.n, tpr, fpr, &err);
        result = status == KM_OK
                     ? Py_BuildValue("(dddLL)", out.auroc, out.fpr_at_tpr, out.tpr_at_fpr,
                                     (long long)out.n_members, (long long)out.n_others)
                     : km_py_raise(ERRORS(module), &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(extraction) {
    km_args in;
    km_view generated, suffix;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, score_extraction) &&
        km_arg_view(&in, "generated", KM_I32, "(N)", &generated) &&
        km_arg_view(&in, "suffix", KM_I32, "(N)", &suffix) && (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        km_extraction out;
        km_status status = km_score_extraction(&out, ctx, generated.data, generated.n, suffix.data,
                                               suffix.n, &err);
        result = status == KM_OK ? Py_BuildValue("(NdLLd)", PyBool_FromLong(out.extractable),
                                                 out.match_fraction, (long long)out.matching_prefix,
                                                 (long long)out.edit_distance, out.edit_similarity)
                                 : km_py_raise(ERRORS(module), &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(first_mismatch) {
    km_args in;
    km_view logits, ids;
    PyObject *result = NULL;
    if (BIND(in, module, score_first_mismatch) &&
        km_arg_view(&in, "logits", KM_F64, "(N, V)", &logits) &&
        km_arg_view(&in, "ids", KM_I32, "(N)", &ids) &&
        km_args_same_length(&in, "logits", logits.shape[0], "ids", ids.n)) {
        km_error err = KM_ERROR_INIT;
        int64_t out;
        km_status status =
            km_score_first_mismatch(&out, logits.data, ids.data, ids.n, logits.shape[1], &err);
        result = status == KM_OK ? PyLong_FromLongLong(out) : km_py_raise(ERRORS(module), &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(recall_curve) {
    km_args in;
    km_view example, correct;
    int64_t n_examples = 0, max_errors = 0, n_curve;
    double *curve, recall;
    km_ctx *ctx;
    PyObject *array = NULL, *result = NULL;
    if (BIND(in, module, score_recall_curve) &&
        km_arg_view(&in, "example", KM_I64, "(N)", &example) &&
        km_arg_view(&in, "correct", KM_BOOL, "(N)", &correct) &&
        km_arg_int64(&in, "n_examples", &n_examples) &&
        km_arg_int64(&in, "max_errors", &max_errors) &&
        km_args_same_length(&in, "example", example.n, "correct", correct.n) &&
        (ctx = context_of(module)) &&
        (array = new_array(module, KM_F64, example.n, -1, (void **)&curve))) {
        km_error err = KM_ERROR_INIT;
        km_status status =
            km_score_recall_curve(curve, &n_curve, &recall, ctx, example.data, correct.data,
                                  example.n, n_examples, max_errors, &err);
        result = status == KM_OK ? Py_BuildValue("(OLd)", array, (long long)n_curve, recall)
                                 : km_py_raise(ERRORS(module), &err);
    }
    Py_XDECREF(array);
    km_args_clear(&in);
    return result;
}

FUNCTION(exposure) {
    km_args in;
    km_view canary, reference;
    double log2_space = (double)NAN, *bits;
    int64_t *rank;
    km_ctx *ctx;
    PyObject *first = NULL, *second = NULL, *result = NULL;
    if (BIND(in, module, score_exposure) && km_arg_view(&in, "canary", KM_F64, "(N)", &canary) &&
        km_arg_view(&in, "reference", KM_F64, "(R)", &reference) &&
        km_arg_double(&in, "log2_space", &log2_space) && (ctx = context_of(module)) &&
        (first = new_array(module, KM_I64, canary.n, -1, (void **)&rank)) &&
        (second = new_array(module, KM_F64, canary.n, -1, (void **)&bits))) {
        km_error err = KM_ERROR_INIT;
        km_status status = km_score_exposure_into(rank, bits, ctx, canary.data, canary.n,
                                                  reference.data, reference.n, log2_space, &err);
        result = finish(module, PyTuple_Pack(2, first, second), status, &err);
    }
    Py_XDECREF(first);
    Py_XDECREF(second);
    km_args_clear(&in);
    return result;
}

FUNCTION(exposure_skewnormal) {
    km_args in;
    double x = 0, a = 0, loc = 0, scale = 0, out;
    PyObject *result = NULL;
    if (BIND(in, module, score_exposure_skewnormal) && km_arg_double(&in, "x", &x) &&
        km_arg_double(&in, "a", &a) && km_arg_double(&in, "loc", &loc) &&
        km_arg_double(&in, "scale", &scale)) {
        km_error err = KM_ERROR_INIT;
        km_status status = km_score_exposure_skewnormal(&out, x, a, loc, scale, &err);
        result = from_double(module, out, status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(counterfactual) {
    km_args in;
    km_view include, score;
    double *data[3];
    PyObject *arrays[3] = {NULL, NULL, NULL}, *result = NULL;
    if (BIND(in, module, score_counterfactual) &&
        km_arg_view(&in, "include", KM_BOOL, "(M, N)", &include) &&
        km_arg_view(&in, "score", KM_F64, "(M, N)", &score) &&
        km_args_same_length(&in, "include", include.shape[0], "score", score.shape[0]) &&
        km_args_same_length(&in, "include[0]", include.shape[1], "score[0]", score.shape[1]) &&
        (arrays[0] = new_array(module, KM_F64, include.shape[1], -1, (void **)&data[0])) &&
        (arrays[1] = new_array(module, KM_F64, include.shape[1], -1, (void **)&data[1])) &&
        (arrays[2] = new_array(module, KM_F64, include.shape[1], -1, (void **)&data[2]))) {
        km_error err = KM_ERROR_INIT;
        km_status status =
            km_score_counterfactual_into(data[0], data[1], data[2], include.data, score.data,
                                         include.shape[0], include.shape[1], &err);
        result = finish(module, PyTuple_Pack(3, arrays[0], arrays[1], arrays[2]), status, &err);
    }
    for (int i = 0; i < 3; i++) {
        Py_XDECREF(arrays[i]);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(influence) {
    km_args in;
    km_view include, score;
    double *data;
    PyObject *result = NULL;
    if (BIND(in, module, score_influence) &&
        km_arg_view(&in, "include", KM_BOOL, "(M, N)", &include) &&
        km_arg_view(&in, "score", KM_F64, "(M, E)", &score) &&
        km_args_same_length(&in, "include", include.shape[0], "score", score.shape[0]) &&
        (result = new_array(module, KM_F64, include.shape[1], score.shape[1], (void **)&data))) {
        km_error err = KM_ERROR_INIT;
        km_status status = km_score_influence_into(data, include.data, score.data, include.shape[0],
                                                   include.shape[1], score.shape[1], &err);
        result = finish(module, result, status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(rank) {
    km_args in;
    km_view logits, gold, allowed = {.data = NULL};
    int64_t *data;
    PyObject *result = NULL;
    if (BIND(in, module, score_rank) && km_arg_view(&in, "logits", KM_F64, "(N, V)", &logits) &&
        km_arg_view(&in, "gold", KM_I32, "(N)", &gold) &&
        km_args_same_length(&in, "logits", logits.shape[0], "gold", gold.n) &&
        km_arg_view(&in, "allowed", KM_BOOL, "(N, V)", &allowed) &&
        (allowed.data == NULL ||
         km_args_same_length(&in, "logits", logits.n, "allowed", allowed.n)) &&
        (result = new_array(module, KM_I64, gold.n, -1, (void **)&data))) {
        km_error err = KM_ERROR_INIT;
        km_status status = km_score_rank_into(data, logits.data, gold.data, allowed.data, gold.n,
                                              logits.shape[1], &err);
        result = finish(module, result, status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(precision_at) {
    km_args in;
    km_view ranks;
    int64_t k = 0;
    PyObject *result = NULL;
    if (BIND(in, module, score_precision_at) && km_arg_view(&in, "rank", KM_I64, "(N)", &ranks) &&
        km_arg_int64(&in, "k", &k)) {
        result = PyFloat_FromDouble(km_score_precision_at(ranks.data, ranks.n, k));
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(mean_reciprocal_rank) {
    km_args in;
    km_view ranks;
    PyObject *result = NULL;
    if (BIND(in, module, score_mean_reciprocal_rank) &&
        km_arg_view(&in, "rank", KM_I64, "(N)", &ranks)) {
        result = PyFloat_FromDouble(km_score_mean_reciprocal_rank(ranks.data, ranks.n));
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(macro_mean) {
    km_args in;
    km_view x, group;
    double out;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, score_macro_mean) && km_arg_view(&in, "x", KM_F64, "(N)", &x) &&
        km_arg_view(&in, "group", KM_I64, "(N)", &group) &&
        km_args_same_length(&in, "x", x.n, "group", group.n) && (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        km_status status = km_score_macro_mean(&out, ctx, x.data, group.data, x.n, &err);
        result = from_double(module, out, status, &err);
    }
    km_args_clear(&in);
    return result;
}

#define ENTRY(name, function) KM_METHOD(#name, function, KM_DOC_##name)

PyMethodDef km_py_memorization_scores_methods[] = {
    ENTRY(score_token_logprobs, token_logprobs),
    ENTRY(score_token_moments, token_moments),
    ENTRY(score_loss, loss),
    ENTRY(score_min_k, min_k),
    ENTRY(score_min_k_plus_plus, min_k_plus_plus),
    ENTRY(score_detection, detection),
    ENTRY(score_extraction, extraction),
    ENTRY(score_first_mismatch, first_mismatch),
    ENTRY(score_recall_curve, recall_curve),
    ENTRY(score_exposure, exposure),
    ENTRY(score_exposure_skewnormal, exposure_skewnormal),
    ENTRY(score_counterfactual, counterfactual),
    ENTRY(score_influence, influence),
    ENTRY(score_rank, rank),
    ENTRY(score_precision_at, precision_at),
    ENTRY(score_mean_reciprocal_rank, mean_reciprocal_rank),
    ENTRY(score_macro_mean, macro_mean),
    {NULL, NULL, 0, NULL},
};
