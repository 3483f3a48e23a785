/* stats.c: the statistics of km/stats.h on arrays. */
#include "km/stats.h"

#include <string.h>

#include "wrap.h"

static PyObject *from_interval(PyObject *module, const km_interval *ci, km_status status,
                               km_error *err) {
    PyObject *tuple = NULL;
    if (status == KM_OK) {
        tuple = Py_BuildValue("(dddddLLs)", ci->estimate, ci->low, ci->high, ci->se, ci->df,
                              (long long)ci->n, (long long)ci->n_clusters, ci->method);
    }
    return finish(module, tuple, status, err);
}

static PyObject *from_test(PyObject *module, const km_test *test, km_status status, km_error *err) {
    PyObject *tuple = NULL;
    if (status == KM_OK) {
        tuple = Py_BuildValue("(ddNLL)", test->statistic, test->p, PyBool_FromLong(test->exact),
                              (long long)test->n, (long long)test->draws);
    }
    return finish(module, tuple, status, err);
}

/* An optional (N) int64 array of ids as long as `n`; NULL when absent. */
static bool arg_ids(km_args *in, const char *name, const char *other, int64_t n,
                    const int64_t **out) {
    km_view view = {.data = NULL};
    if (!km_arg_view(in, name, KM_I64, "(N)", &view)) {
        return false;
    }
    *out = view.data;
    return view.data == NULL || km_args_same_length(in, other, n, name, view.n);
}

static bool arg_clusters(km_args *in, const char *other, int64_t n, km_clusters *out) {
    *out = (km_clusters){NULL, NULL, NULL};
    return arg_ids(in, "cluster", other, n, &out->cluster) &&
           arg_ids(in, "subject", other, n, &out->subject) &&
           arg_ids(in, "template", other, n, &out->template_id);
}

static bool arg_method(km_args *in, km_cluster_method *out) {
    static const char *const names[] = {"auto", "bootstrap", "t"};
    const char *name = names[0];
    if (!km_arg_str(in, "method", &name)) {
        return false;
    }
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (km_cluster_method)i;
            return true;
        }
    }
    km_py_raise_format(in->errors, KM_EINVAL,
                       "%s(): method is '%s'; it must be auto, bootstrap or t", in->signature->name,
                       name);
    return false;
}

static bool arg_interval(km_args *in, km_interval_options *out) {
    *out = (km_interval_options)KM_INTERVAL_OPTIONS_INIT;
    return km_arg_int64(in, "replicates", &out->replicates) &&
           km_arg_double(in, "confidence", &out->confidence) &&
           km_arg_uint64(in, "seed", &out->seed) && arg_method(in, &out->method) &&
           km_arg_bool(in, "macro", &out->macro) && km_arg_bool(in, "proportion", &out->proportion);
}

/* Two (N) float64 arrays of one length. */
static bool arg_pair(km_args *in, const char *first, const char *second, km_view *a, km_view *b) {
    return km_arg_view(in, first, KM_F64, "(N)", a) && km_arg_view(in, second, KM_F64, "(N)", b) &&
           km_args_same_length(in, first, a->n, second, b->n);
}

/* ---- intervals ---- */

FUNCTION(wilson) {
    km_args in;
    int64_t successes, n;
    double confidence = 0.95;
    PyObject *result = NULL;
    if (BIND(in, module, stats_wilson) && km_arg_int64(&in, "successes", &successes) &&
        km_arg_int64(&in, "n", &n) && km_arg_double(&in, "confidence", &confidence)) {
        km_error err = KM_ERROR_INIT;
        km_interval ci;
        km_status status = km_stats_wilson(&ci, successes, n, confidence, &err);
        result = from_interval(module, &ci, status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(bootstrap_mean) {
    km_args in;
    km_view x;
    km_interval_options options = KM_INTERVAL_OPTIONS_INIT;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, stats_bootstrap_mean) && km_arg_view(&in, "x", KM_F64, "(N)", &x) &&
        km_arg_int64(&in, "replicates", &options.replicates) &&
        km_arg_double(&in, "confidence", &options.confidence) &&
        km_arg_uint64(&in, "seed", &options.seed) &&
        km_arg_bool(&in, "proportion", &options.proportion) && (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        km_interval ci;
        km_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = km_stats_bootstrap_mean(&ci, ctx, x.data, x.n, &options, &err);
        Py_END_ALLOW_THREADS;
        result = from_interval(module, &ci, status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(clustered_mean) {
    km_args in;
    km_view x;
    km_clusters clusters;
    km_interval_options options;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, stats_clustered_mean) && km_arg_view(&in, "x", KM_F64, "(N)", &x) &&
        arg_clusters(&in, "x", x.n, &clusters) && arg_interval(&in, &options) &&
        (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        km_interval ci;
        km_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = km_stats_clustered_mean(&ci, ctx, x.data, x.n, &clusters, &options, &err);
        Py_END_ALLOW_THREADS;
        result = from_interval(module, &ci, status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(paired_difference) {
    km_args in;
    km_view a, b;
    km_clusters clusters;
    km_interval_options options;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, stats_paired_difference) && arg_pair(&in, "a", "b", &a, &b) &&
        arg_clusters(&in, "a", a.n, &clusters) && arg_interval(&in, &options) &&
        (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        km_interval ci;
        km_status status;
        Py_BEGIN_ALLOW_THREADS;
        status =
            km_stats_paired_difference(&ci, ctx, a.data, b.data, a.n, &clusters, &options, &err);
        Py_END_ALLOW_THREADS;
        result = from_interval(module, &ci, status, &err);
    }
    km_args_clear(&in);
    return result;
}

/* ---- tests ---- */

FUNCTION(permutation_paired) {
    km_args in;
    km_view x;
    const int64_t *cluster = NULL;
    int64_t draws = 10000;
    uint64_t seed = 0;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, stats_permutation_paired) && km_arg_view(&in, "x", KM_F64, "(N)", &x) &&
        arg_ids(&in, "cluster", "x", x.n, &cluster) && km_arg_int64(&in, "draws", &draws) &&
        km_arg_uint64(&in, "seed", &seed) && (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        km_test test;
        km_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = km_stats_permutation_paired(&test, ctx, x.data, x.n, cluster, draws, seed, &err);
        Py_END_ALLOW_THREADS;
        result = from_test(module, &test, status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(permutation_two_sample) {
    km_args in;
    km_view x, y;
    int64_t draws = 10000;
    uint64_t seed = 0;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, stats_permutation_two_sample) &&
        km_arg_view(&in, "x", KM_F64, "(N)", &x) && km_arg_view(&in, "y", KM_F64, "(M)", &y) &&
        km_arg_int64(&in, "draws", &draws) && km_arg_uint64(&in, "seed", &seed) &&
        (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        km_test test;
        km_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = km_stats_permutation_two_sample(&test, ctx, x.data, x.n, y.data, y.n, draws, seed,
                                                 &err);
        Py_END_ALLOW_THREADS;
        result = from_test(module, &test, status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(mcnemar) {
    km_args in;
    int64_t b, c;
    PyObject *result = NULL;
    if (BIND(in, module, stats_mcnemar) && km_arg_int64(&in, "b", &b) &&
        km_arg_int64(&in, "c", &c)) {
        km_error err = KM_ERROR_INIT;
        km_test test;
        km_status status = km_stats_mcnemar(&test, b, c, &err);
        result = from_test(module, &test, status, &err);
    }
    km_args_clear(&in);
    return result;
}

typedef km_status (*adjustment)(double *out, km_ctx *ctx, const double *p, int64_t n,
                                km_error *err);

/* With `in` bound to a function of one array p. */
static PyObject *adjust(PyObject *module, km_args *in, adjustment function) {
    km_view p;
    double *out;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (km_arg_view(in, "p", KM_F64, "(N)", &p) && (ctx = context_of(module)) &&
        (result = km_array_new(KM_MODULE_STATE(module)->types[KM_TYPE_ARRAY], KM_F64, 1, &p.n,
                               (void **)&out))) {
        km_error err = KM_ERROR_INIT;
        km_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = function(out, ctx, p.data, p.n, &err);
        Py_END_ALLOW_THREADS;
        result = finish(module, result, status, &err);
    }
    return result;
}

FUNCTION(holm) {
    km_args in;
    bool bound = BIND(in, module, stats_holm);
    PyObject *result = bound ? adjust(module, &in, km_stats_holm) : NULL;
    km_args_clear(&in);
    return result;
}

FUNCTION(benjamini_hochberg) {
    km_args in;
    bool bound = BIND(in, module, stats_benjamini_hochberg);
    PyObject *result = bound ? adjust(module, &in, km_stats_benjamini_hochberg) : NULL;
    km_args_clear(&in);
    return result;
}

/* ---- association ---- */

typedef km_status (*correlation)(km_test *out, km_ctx *ctx, const double *x, const double *y,
                                 int64_t n, km_error *err);

static km_status pearson_of(km_test *out, km_ctx *ctx, const double *x, const double *y, int64_t n,
                            km_error *err) {
    (void)ctx;
    return km_stats_pearson(out, x, y, n, err);
}

/* With `in` bound to a function of two arrays x and y. */
static PyObject *correlate(PyObject *module, km_args *in, correlation function) {
    km_view x, y;
    km_ctx *ctx;
    if (!arg_pair(in, "x", "y", &x, &y) || (ctx = context_of(module)) == NULL) {
        return NULL;
    }
    km_error err = KM_ERROR_INIT;
    km_test test;
    km_status status;
    Py_BEGIN_ALLOW_THREADS;
    status = function(&test, ctx, x.data, y.data, x.n, &err);
    Py_END_ALLOW_THREADS;
    return from_test(module, &test, status, &err);
}

FUNCTION(pearson) {
    km_args in;
    bool bound = BIND(in, module, stats_pearson);
    PyObject *result = bound ? correlate(module, &in, pearson_of) : NULL;
    km_args_clear(&in);
    return result;
}

FUNCTION(spearman) {
    km_args in;
    bool bound = BIND(in, module, stats_spearman);
    PyObject *result = bound ? correlate(module, &in, km_stats_spearman) : NULL;
    km_args_clear(&in);
    return result;
}

FUNCTION(kendall) {
    km_args in;
    bool bound = BIND(in, module, stats_kendall);
    PyObject *result = bound ? correlate(module, &in, km_stats_kendall) : NULL;
    km_args_clear(&in);
    return result;
}

FUNCTION(linear_regression) {
    km_args in;
    km_view x, y;
    PyObject *result = NULL;
    if (BIND(in, module, stats_linear_regression) && arg_pair(&in, "x", "y", &x, &y)) {
        km_error err = KM_ERROR_INIT;
        km_regression fit = {0};
        km_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = km_stats_linear_regression(&fit, x.data, y.data, x.n, &err);
        Py_END_ALLOW_THREADS;
        result = finish(module,
                        Py_BuildValue("(dddddddL)", fit.slope, fit.intercept, fit.slope_se,
                                      fit.intercept_se, fit.t, fit.p, fit.r2, (long long)fit.n),
                        status, &err);
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(auroc) {
    km_args in;
    km_view scores, positive;
    km_ctx *ctx;
    PyObject *result = NULL;
    if (BIND(in, module, stats_auroc) && km_arg_view(&in, "scores", KM_F64, "(N)", &scores) &&
        km_arg_view(&in, "positive", KM_BOOL, "(N)", &positive) &&
        km_args_same_length(&in, "scores", scores.n, "positive", positive.n) &&
        (ctx = context_of(module))) {
        km_error err = KM_ERROR_INIT;
        double area = 0;
        km_status status;
        Py_BEGIN_ALLOW_THREADS;
        status = km_stats_auroc(&area, ctx, scores.data, positive.data, scores.n, &err);
        Py_END_ALLOW_THREADS;
        result = from_double(module, area, status, &err);
    }
    km_args_clear(&in);
    return result;
}

/* ---- power: five numbers in, one out ---- */

typedef km_status (*power_function)(double *out, double first, double second, double alpha,
                                    double power, double design_effect, km_error *err);

static PyObject *power_of(PyObject *module, km_args *in, const char *first, const char *second,
                          power_function function) {
    double a, b, alpha = 0.05, power = 0.8, design_effect = 1, out = 0;
    if (!km_arg_double(in, first, &a) || !km_arg_double(in, second, &b) ||
        !km_arg_double(in, "alpha", &alpha) || !km_arg_double(in, "power", &power) ||
        !km_arg_double(in, "design_effect", &design_effect)) {
        return NULL;
    }
    km_error err = KM_ERROR_INIT;
    km_status status = function(&out, a, b, alpha, power, design_effect, &err);
    return from_double(module, out, status, &err);
}

FUNCTION(power_paired) {
    km_args in;
    bool bound = BIND(in, module, stats_power_paired);
    PyObject *result =
        bound ? power_of(module, &in, "n", "discordance", km_stats_power_paired) : NULL;
    km_args_clear(&in);
    return result;
}

FUNCTION(pairs_needed) {
    km_args in;
    bool bound = BIND(in, module, stats_pairs_needed);
    PyObject *result =
        bound ? power_of(module, &in, "difference", "discordance", km_stats_pairs_needed) : NULL;
    km_args_clear(&in);
    return result;
}

FUNCTION(power_two_proportions) {
    km_args in;
    bool bound = BIND(in, module, stats_power_two_proportions);
    PyObject *result =
        bound ? power_of(module, &in, "n", "baseline", km_stats_power_two_proportions) : NULL;
    km_args_clear(&in);
    return result;
}

FUNCTION(items_needed) {
    km_args in;
    bool bound = BIND(in, module, stats_items_needed);
    PyObject *result = bound ? power_of(module, &in, "p1", "p2", km_stats_items_needed) : NULL;
    km_args_clear(&in);
    return result;
}

/* ---- distributions ---- */

FUNCTION(normal_quantile) {
    km_args in;
    double p;
    PyObject *result = NULL;
    if (BIND(in, module, stats_normal_quantile) && km_arg_double(&in, "p", &p)) {
        result = PyFloat_FromDouble(km_stats_normal_quantile(p));
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(t_quantile) {
    km_args in;
    double p, df;
    PyObject *result = NULL;
    if (BIND(in, module, stats_t_quantile) && km_arg_double(&in, "p", &p) &&
        km_arg_double(&in, "df", &df)) {
        result = PyFloat_FromDouble(km_stats_t_quantile(p, df));
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(t_cdf) {
    km_args in;
    double t, df;
    PyObject *result = NULL;
    if (BIND(in, module, stats_t_cdf) && km_arg_double(&in, "t", &t) &&
        km_arg_double(&in, "df", &df)) {
        result = PyFloat_FromDouble(km_stats_t_cdf(t, df));
    }
    km_args_clear(&in);
    return result;
}

FUNCTION(beta_cdf) {
    km_args in;
    double x, a, b;
    PyObject *result = NULL;
    if (BIND(in, module, stats_beta_cdf) && km_arg_double(&in, "x", &x) &&
        km_arg_double(&in, "a", &a) && km_arg_double(&in, "b", &b)) {
        result = PyFloat_FromDouble(km_stats_beta_cdf(x, a, b));
    }
    km_args_clear(&in);
    return result;
}

#define ROW(name) KM_METHOD("stats_" #name, name, KM_DOC_stats_##name)

PyMethodDef km_py_stats_methods[] = {
    ROW(wilson),
    ROW(bootstrap_mean),
    ROW(clustered_mean),
    ROW(paired_difference),
    ROW(permutation_paired),
    ROW(permutation_two_sample),
    ROW(mcnemar),
    ROW(holm),
    ROW(benjamini_hochberg),
    ROW(pearson),
    ROW(spearman),
    ROW(kendall),
    ROW(linear_regression),
    ROW(auroc),
    ROW(power_paired),
    ROW(pairs_needed),
    ROW(power_two_proportions),
    ROW(items_needed),
    ROW(normal_quantile),
    ROW(t_quantile),
    ROW(t_cdf),
    ROW(beta_cdf),
    {NULL, NULL, 0, NULL},
};
