/* stats_cluster.c: intervals for means of clustered items: percentile bootstrap over clusters,
 * subjects and templates, and the cluster-robust t interval where clusters are few. */
#include <math.h>
#include <string.h>

#include "base/stats_private.h"

#define FEW_CLUSTERS 30
#define MIN_REPLICATES 100
#define REPLICATES_A_RANGE 16
#define MAX_REDRAWS 1000

typedef struct cell {
    double x;
    int64_t subject, template_id; /* numbered from 0 in the cell's cluster */
} cell;

/* The items put in order of their clusters. */
typedef struct plan {
    km_ctx *ctx;
    int64_t n, n_clusters;
    cell *cells;          /* (n) */
    int64_t *start;       /* (n_clusters + 1) */
    int64_t *n_subjects;  /* (n_clusters) */
    int64_t *n_templates; /* (n_clusters) */
    int64_t *cluster;     /* (n), in the caller's order */
    int64_t *subject;     /* (n), in the caller's order */
    int64_t *template_id; /* (n), in the caller's order */
    int64_t max_subjects, max_templates;
} plan;

typedef struct replicate_job {
    const plan *plan;
    const km_interval_options *options;
    double *means;    /* (replicates) */
    int64_t *weights; /* (threads, max_subjects + max_templates) */
} replicate_job;

static void plan_clear(plan *p) {
    km_free(p->ctx, p->cells);
    km_free(p->ctx, p->start);
    km_free(p->ctx, p->n_subjects);
    km_free(p->ctx, p->n_templates);
    km_free(p->ctx, p->cluster);
    km_free(p->ctx, p->subject);
    km_free(p->ctx, p->template_id);
}

static km_status new_ids(int64_t **out, km_ctx *ctx, int64_t n, km_error *err) {
    void *block = NULL;
    KM_TRY(km_alloc_array(&block, ctx, n, sizeof(int64_t), err));
    *out = block;
    return KM_OK;
}

/* Counting sort of the items by cluster. */
static void place_cells(plan *p, const double *x) {
    for (int64_t i = 0; i < p->n; i++) {
        p->start[p->cluster[i] + 1]++;
    }
    for (int64_t g = 0; g < p->n_clusters; g++) {
        p->start[g + 1] += p->start[g];
    }
    for (int64_t i = 0; i < p->n; i++) {
        int64_t at = p->start[p->cluster[i]]++;
        p->cells[at] = (cell){x[i], p->subject[i], p->template_id[i]};
    }
    for (int64_t g = p->n_clusters; g > 0; g--) {
        p->start[g] = p->start[g - 1];
    }
    p->start[0] = 0;
}

static km_status plan_make(plan *p, km_ctx *ctx, const double *x, int64_t n, const km_clusters *by,
                           km_error *err) {
    void *cells = NULL;
    *p = (plan){.ctx = ctx, .n = n};
    KM_TRY(new_ids(&p->cluster, ctx, n, err));
    KM_TRY(new_ids(&p->subject, ctx, n, err));
    KM_TRY(new_ids(&p->template_id, ctx, n, err));
    KM_TRY(km__dense_ids(p->cluster, &p->n_clusters, ctx, by->cluster, n, err));
    int64_t groups = p->n_clusters;
    KM_TRY(new_ids(&p->start, ctx, groups + 1, err));
    KM_TRY(new_ids(&p->n_subjects, ctx, groups, err));
    KM_TRY(new_ids(&p->n_templates, ctx, groups, err));
    KM_TRY(km__local_ids(p->subject, p->n_subjects, groups, ctx, p->cluster, by->subject, n, err));
    KM_TRY(km__local_ids(p->template_id, p->n_templates, groups, ctx, p->cluster, by->template_id,
                         n, err));
    KM_TRY(km_alloc_array(&cells, ctx, n, sizeof(cell), err));
    p->cells = cells;
    place_cells(p, x);
    for (int64_t g = 0; g < groups; g++) {
        p->max_subjects = p->n_subjects[g] > p->max_subjects ? p->n_subjects[g] : p->max_subjects;
        p->max_templates =
            p->n_templates[g] > p->max_templates ? p->n_templates[g] : p->max_templates;
    }
    return KM_OK;
}

/* The number of units that are drawn first, which is what decides whether they are few. */
static int64_t n_units(const plan *p) {
    if (p->n_clusters > 1) {
        return p->n_clusters;
    }
    return p->n_subjects[0] > 1 ? p->n_subjects[0] : p->n_templates[0];
}

static double plan_mean(const plan *p, bool macro) {
    km__sum total = {0, 0};
    for (int64_t g = 0; g < p->n_clusters; g++) {
        km__sum sum = {0, 0};
        int64_t size = p->start[g + 1] - p->start[g];
        for (int64_t i = p->start[g]; i < p->start[g + 1]; i++) {
            km__sum_add(&sum, p->cells[i].x);
        }
        km__sum_add(&total, macro ? km__sum_get(&sum) / (double)size : km__sum_get(&sum));
    }
    return km__sum_get(&total) / (double)(macro ? p->n_clusters : p->n);
}

/* ---- bootstrap ---- */

/* How often each of n things is drawn in n draws; a single one is kept without drawing. */
static void draw_weights(int64_t *weights, int64_t n, km__draws *draws) {
    if (n == 1) {
        weights[0] = 1;
        return;
    }
    memset(weights, 0, (size_t)n * sizeof weights[0]);
    for (int64_t i = 0; i < n; i++) {
        weights[km__draw_below(draws, n)]++;
    }
}

/* Add one drawn cluster to the sums of weighted values and of weights. */
static void draw_cluster(const plan *p, int64_t g, bool macro, int64_t *weights, km__draws *draws,
                         double sums[2]) {
    int64_t *of_subject = weights;
    int64_t *of_template = weights + p->max_subjects;
    draw_weights(of_subject, p->n_subjects[g], draws);
    draw_weights(of_template, p->n_templates[g], draws);
    double sum = 0, weight = 0;
    for (int64_t i = p->start[g]; i < p->start[g + 1]; i++) {
        const cell *c = &p->cells[i];
        double w = (double)(of_subject[c->subject] * of_template[c->template_id]);
        sum += w * c->x;
        weight += w;
    }
    if (macro && weight > 0) {
        sum /= weight;
        weight = 1;
    }
    sums[0] += sum;
    sums[1] += weight;
}

/* One resampled mean. Where some cells are missing a draw can be empty; it is then made again. */
static km_status draw_mean(double *out, const replicate_job *job, int64_t *weights,
                           km__draws *draws, km_error *err) {
    const plan *p = job->plan;
    for (int attempt = 0; attempt < MAX_REDRAWS; attempt++) {
        double sums[2] = {0, 0};
        for (int64_t k = 0; k < p->n_clusters; k++) {
            int64_t g = p->n_clusters > 1 ? km__draw_below(draws, p->n_clusters) : 0;
            draw_cluster(p, g, job->options->macro, weights, draws, sums);
        }
        if (sums[1] > 0) {
            *out = sums[0] / sums[1];
            return KM_OK;
        }
    }
    return KM_SET(err, KM_ENUMERIC,
                  "resampling finds no items: too few cells of subject and "
                  "template are filled");
}

static km_status draw_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    const replicate_job *job = payload;
    const plan *p = job->plan;
    int64_t *weights = job->weights + worker * (p->max_subjects + p->max_templates);
    for (int64_t r = begin; r < end; r++) {
        km__draws draws = {job->options->seed, (uint64_t)r, 0};
        KM_TRY(draw_mean(&job->means[r], job, weights, &draws, err));
    }
    return KM_OK;
}

static km_status bootstrap(km_interval *out, const plan *p, const km_interval_options *options,
                           km_error *err) {
    void *means = NULL, *weights = NULL;
    km_status status = KM_OK;
    int64_t n_weights = km_ctx_threads(p->ctx) * (p->max_subjects + p->max_templates);
    KM_GO(km_alloc_array(&means, p->ctx, options->replicates, sizeof(double), err));
    KM_GO(km_alloc_array(&weights, p->ctx, n_weights, sizeof(int64_t), err));
    replicate_job job = {p, options, means, weights};
    KM_GO(km_parallel_for(p->ctx, options->replicates, REPLICATES_A_RANGE, draw_range, &job, err));
    double tail = (1 - options->confidence) / 2;
    out->se = sqrt(km_stats_variance(means, options->replicates));
    km__sort_doubles(means, options->replicates);
    out->low = km_stats_quantile_sorted(means, options->replicates, tail);
    out->high = km_stats_quantile_sorted(means, options->replicates, 1 - tail);
    out->df = NAN;
done:
    km_free(p->ctx, means);
    km_free(p->ctx, weights);
    return status;
}

/* ---- the t interval ---- */

/* CR2 standard error of the mean of x and its degrees of freedom; `group` is dense. Residual sums
 * of the clusters; then the sandwich with each divided by sqrt(1 - n_g / n), and the
 * degrees of freedom that match the first two moments of that variance for independent items. */
static km_status cr2(double *se, double *df, km_ctx *ctx, const double *x, int64_t n,
                     const int64_t *group, int64_t n_groups, km_error *err) {
    void *residuals_block = NULL, *sizes_block = NULL;
    km_status status = KM_OK;
    KM_GO(km_alloc_array(&residuals_block, ctx, n_groups, sizeof(double), err));
    KM_GO(km_alloc_array(&sizes_block, ctx, n_groups, sizeof(double), err));
    double *residuals = residuals_block;
    double *sizes = sizes_block;
    double total = (double)n;
    double mean = km_stats_mean(x, n);
    for (int64_t i = 0; i < n; i++) {
        residuals[group[i]] += x[i] - mean;
        sizes[group[i]] += 1;
    }
    double variance = 0, squares = 0, fourths = 0, sizes2 = 0;
    for (int64_t g = 0; g < n_groups; g++) {
        double rest = 1 - sizes[g] / total;
        double share2 = sizes[g] * sizes[g] / (total * total * rest);
        variance += residuals[g] * residuals[g] / (rest * total * total);
        squares += share2;
        fourths += share2 * share2;
        sizes2 += sizes[g] * sizes[g];
    }
    *se = sqrt(variance);
    *df = 1 / (sizes2 / (total * total) + (squares * squares - fourths));
done:
    km_free(ctx, residuals_block);
    km_free(ctx, sizes_block);
    return status;
}

static km_status macro_t(km_interval *out, const plan *p, km_error *err) {
    void *block = NULL;
    KM_TRY(km_alloc_array(&block, p->ctx, p->n_clusters, sizeof(double), err));
    double *means = block;
    for (int64_t g = 0; g < p->n_clusters; g++) {
        for (int64_t i = p->start[g]; i < p->start[g + 1]; i++) {
            means[g] += p->cells[i].x / (double)(p->start[g + 1] - p->start[g]);
        }
    }
    out->se = sqrt(km_stats_variance(means, p->n_clusters) / (double)p->n_clusters);
    out->df = (double)(p->n_clusters - 1);
    km_free(p->ctx, block);
    return KM_OK;
}

/* One cluster: by subject, by template, or by both (Cameron, Gelbach and Miller 2011). */
static km_status one_cluster_t(km_interval *out, const plan *p, const double *x, km_error *err) {
    int64_t n_subjects = p->n_subjects[0];
    int64_t n_templates = p->n_templates[0];
    if (n_templates < 2) {
        return cr2(&out->se, &out->df, p->ctx, x, p->n, p->subject, n_subjects, err);
    }
    if (n_subjects < 2) {
        return cr2(&out->se, &out->df, p->ctx, x, p->n, p->template_id, n_templates, err);
    }
    double subject_se, template_se, cell_se, unused;
    int64_t *cells = NULL;
    int64_t n_cells = 0;
    km_status status = KM_OK;
    KM_GO(cr2(&subject_se, &unused, p->ctx, x, p->n, p->subject, n_subjects, err));
    KM_GO(cr2(&template_se, &unused, p->ctx, x, p->n, p->template_id, n_templates, err));
    KM_GO(new_ids(&cells, p->ctx, p->n, err));
    for (int64_t i = 0; i < p->n; i++) {
        cells[i] = p->subject[i] * n_templates + p->template_id[i];
    }
    KM_GO(km__dense_ids(cells, &n_cells, p->ctx, cells, p->n, err));
    KM_GO(cr2(&cell_se, &unused, p->ctx, x, p->n, cells, n_cells, err));
    double variance = subject_se * subject_se + template_se * template_se - cell_se * cell_se;
    out->se = fmax(sqrt(fmax(variance, 0)), fmax(subject_se, template_se));
    out->df = (double)((n_subjects < n_templates ? n_subjects : n_templates) - 1);
done:
    km_free(p->ctx, cells);
    return status;
}

static km_status t_interval(km_interval *out, const plan *p, const double *x,
                            const km_interval_options *options, km_error *err) {
    if (p->n_clusters == 1) {
        KM_TRY(one_cluster_t(out, p, x, err));
    } else if (options->macro) {
        KM_TRY(macro_t(out, p, err));
    } else {
        KM_TRY(cr2(&out->se, &out->df, p->ctx, x, p->n, p->cluster, p->n_clusters, err));
    }
    double half = out->se * -km_stats_t_quantile((1 - options->confidence) / 2, out->df);
    out->low = out->estimate - half;
    out->high = out->estimate + half;
    return KM_OK;
}

/* ---- choice and checks ---- */

static km_status check_options(const km_interval_options *options, km_error *err) {
    KM_TRY(km__stats_check_confidence(options->confidence, err));
    if (options->replicates < MIN_REPLICATES) {
        return KM_SET(err, KM_EINVAL, "%lld bootstrap replicates; at least %d are needed",
                      (long long)options->replicates, MIN_REPLICATES);
    }
    if ((unsigned int)options->method > (unsigned int)KM_CLUSTER_T) {
        return KM_SET(err, KM_EINVAL, "no interval method %d", (int)options->method);
    }
    return KM_OK;
}

static km_status check_unit_interval(const double *x, int64_t n, const char *name, km_error *err) {
    for (int64_t i = 0; i < n; i++) {
        if (!(x[i] >= 0 && x[i] <= 1)) {
            return KM_SET(err, KM_ERANGE, "%s[%lld] is %g, which is no proportion", name,
                          (long long)i, x[i]);
        }
    }
    return KM_OK;
}

static km_status interval_of_plan(km_interval *out, const plan *p, const double *x,
                                  const km_interval_options *options, km_error *err) {
    int64_t units = n_units(p);
    if (units < 2) {
        return KM_SET(err, KM_EINVAL, "one cluster of one subject says nothing about its spread");
    }
    *out = (km_interval){.estimate = plan_mean(p, options->macro), .n = p->n, .n_clusters = units};
    bool few = options->method == KM_CLUSTER_T ||
               (options->method == KM_CLUSTER_AUTO && units < FEW_CLUSTERS);
    out->method = few ? "CR2 t" : "cluster bootstrap";
    return few ? t_interval(out, p, x, options, err) : bootstrap(out, p, options, err);
}

static bool all_equal(const double *x, int64_t n, double value) {
    for (int64_t i = 0; i < n; i++) {
        if (x[i] != value) {
            return false;
        }
    }
    return true;
}

static km_status mean_interval(km_interval *out, km_ctx *ctx, const double *x, int64_t n,
                               const km_clusters *clusters, const km_interval_options *options,
                               km_error *err) {
    static const km_clusters none = {NULL, NULL, NULL};
    plan p;
    km_status status = KM_OK;
    KM_GO(plan_make(&p, ctx, x, n, clusters != NULL ? clusters : &none, err));
    KM_GO(interval_of_plan(out, &p, x, options, err));
done:
    plan_clear(&p);
    return status;
}

km_status km_stats_clustered_mean(km_interval *out, km_ctx *ctx, const double *x, int64_t n,
                                  const km_clusters *clusters, const km_interval_options *options,
                                  km_error *err) {
    static const km_interval_options defaults = KM_INTERVAL_OPTIONS_INIT;
    const km_interval_options *opt = options != NULL ? options : &defaults;
    KM_TRY(check_options(opt, err));
    KM_TRY(km__stats_check(x, n, 1, "x", err));
    if (opt->proportion) {
        KM_TRY(check_unit_interval(x, n, "x", err));
    }
    KM_TRY(mean_interval(out, ctx, x, n, clusters, opt, err));
    if (!opt->proportion) {
        return KM_OK;
    }
    if (all_equal(x, n, 0) || all_equal(x, n, 1)) {
        int64_t units = out->n_clusters;
        KM_TRY(km_stats_wilson(out, x[0] > 0.5 ? units : 0, units, opt->confidence, err));
        out->n = n;
        out->method = "wilson on clusters";
    }
    out->low = fmax(out->low, 0);
    out->high = fmin(out->high, 1);
    return KM_OK;
}

/* With proportions: differences stay within [-1, 1], and no difference at all is bounded. */
static km_status bound_difference(km_interval *out, const double *difference, int64_t n,
                                  const km_interval_options *options, km_error *err) {
    if (all_equal(difference, n, 0)) {
        km_interval none;
        KM_TRY(km_stats_wilson(&none, 0, out->n_clusters, options->confidence, err));
        out->low = -none.high;
        out->high = none.high;
        out->method = "wilson on clusters";
    }
    out->low = fmax(out->low, -1);
    out->high = fmin(out->high, 1);
    return KM_OK;
}

km_status km_stats_paired_difference(km_interval *out, km_ctx *ctx, const double *a,
                                     const double *b, int64_t n, const km_clusters *clusters,
                                     const km_interval_options *options, km_error *err) {
    static const km_interval_options defaults = KM_INTERVAL_OPTIONS_INIT;
    const km_interval_options *opt = options != NULL ? options : &defaults;
    void *block = NULL;
    km_status status = KM_OK;
    KM_TRY(check_options(opt, err));
    KM_TRY(km__stats_check(a, n, 1, "a", err));
    KM_TRY(km__stats_check(b, n, 1, "b", err));
    if (opt->proportion) {
        KM_TRY(check_unit_interval(a, n, "a", err));
        KM_TRY(check_unit_interval(b, n, "b", err));
    }
    KM_GO(km_alloc_array(&block, ctx, n, sizeof(double), err));
    double *difference = block;
    for (int64_t i = 0; i < n; i++) {
        difference[i] = a[i] - b[i];
    }
    KM_GO(mean_interval(out, ctx, difference, n, clusters, opt, err));
    if (opt->proportion) {
        KM_GO(bound_difference(out, difference, n, opt, err));
    }
done:
    km_free(ctx, block);
    return status;
}

km_status km_stats_bootstrap_mean(km_interval *out, km_ctx *ctx, const double *x, int64_t n,
                                  const km_interval_options *options, km_error *err) {
    km_interval_options opt = KM_INTERVAL_OPTIONS_INIT;
    opt = options != NULL ? *options : opt;
    opt.method = KM_CLUSTER_BOOTSTRAP;
    opt.macro = false;
    KM_TRY(km_stats_clustered_mean(out, ctx, x, n, NULL, &opt, err));
    if (out->method[0] == 'c') {
        out->method = "bootstrap";
    }
    return KM_OK;
}
