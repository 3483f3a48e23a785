/* Tests of gradient_ops.h and kernels_gradient.h: each derivative against central differences in
 * double precision. */
#include "km_test.h"

#include <math.h>

#include "km/gradient.h"
#include "model/gradient_ops.h"
#include "tensor/kernels_gradient.h"

enum { N = 17 };

static float number(uint64_t i) {
    return (float)(0.8 * km_random_normal(3, 7, i));
}

static void fill(float *x, uint64_t first) {
    for (int i = 0; i < N; i++) {
        x[i] = number(first + (uint64_t)i);
    }
}

static void close_to(float got, double expected, const char *what) {
    if (fabs((double)got - expected) > 2e-6 + 2e-6 * fabs(expected)) {
        fail_msg("%s: %.9g, expected %.9g", what, (double)got, expected);
    }
}

/* ---- norms ---- */

static void norm_double(double *y, const double *x, const km_norm_weights *w, const km_config *c) {
    double mean = 0.0, squares = 0.0;
    for (int i = 0; c->norm == KM_NORM_LAYER && i < N; i++) {
        mean += x[i] / N;
    }
    for (int i = 0; i < N; i++) {
        squares += (x[i] - mean) * (x[i] - mean) / N;
    }
    for (int i = 0; i < N; i++) {
        y[i] = (x[i] - mean) / sqrt(squares + c->norm_eps) *
                   ((double)w->gain[i] + (double)c->norm_offset) +
               (w->bias == NULL ? 0.0 : (double)w->bias[i]);
    }
}

/* dy . norm(x) with element i moved by `step`. */
static double norm_dot(const float *x, const float *dy, const km_norm_weights *w,
                       const km_config *c, int i, double step) {
    double moved[N], y[N], sum = 0.0;
    for (int k = 0; k < N; k++) {
        moved[k] = (double)x[k] + (k == i ? step : 0.0);
    }
    norm_double(y, moved, w, c);
    for (int k = 0; k < N; k++) {
        sum += y[k] * (double)dy[k];
    }
    return sum;
}

static void test_norms(void **state) {
    (void)state;
    float gain[N], bias[N], x[N], dy[N], dx[N], more[N];
    fill(gain, 0);
    fill(bias, 100);
    fill(x, 200);
    fill(dy, 300);
    for (int kind = 0; kind < 3; kind++) {
        const km_config c = {.norm = kind == 2 ? KM_NORM_LAYER : KM_NORM_RMS,
                             .norm_eps = 1e-3,
                             .norm_offset = kind == 1 ? 1.0f : 0.0f};
        const km_norm_weights w = {gain, kind == 2 ? bias : NULL};
        km__norm_backward(dx, dy, x, &w, &c, N, false);
        fill(more, 400);
        km__norm_backward(more, dy, x, &w, &c, N, true);
        for (int i = 0; i < N; i++) {
            const double slope =
                (norm_dot(x, dy, &w, &c, i, 1e-5) - norm_dot(x, dy, &w, &c, i, -1e-5)) / 2e-5;
            close_to(dx[i], slope, "derivative of a norm");
            close_to(more[i], (double)number(400 + (uint64_t)i) + slope, "added derivative");
        }
        km__norm_backward(dy, dy, x, &w, &c, N, false); /* in place */
        assert_memory_equal(dy, dx, sizeof dy);
        fill(dy, 300);
    }
}

/* The derivative along x vanishes where eps does, since the norm does not depend on the scale. */
static void test_scale_invariance(void **state) {
    (void)state;
    float gain[N], x[N], dy[N], dx[N];
    const km_config c = {.norm = KM_NORM_RMS};
    const km_norm_weights w = {gain, NULL};
    double along = 0.0;
    fill(gain, 0);
    fill(x, 200);
    fill(dy, 300);
    km__norm_backward(dx, dy, x, &w, &c, N, false);
    for (int i = 0; i < N; i++) {
        along += (double)dx[i] * (double)x[i];
    }
    assert_true(fabs(along) < 1e-6);
}

/* ---- activations ---- */

static double activation(km_activation kind, double x) {
    if (kind == KM_ACT_SILU) {
        return x / (1.0 + exp(-x));
    }
    if (kind == KM_ACT_GELU_ERF) {
        return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    }
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

static void check_activations(const km_gradient_kernels *kernels) {
    static const float points[N] = {-90.0f, -9.0f, -4.0f, -1.5f, -0.7f, -0.1f, 0.0f, 0.1f, 0.75f,
                                    1.0f,   3.0f,  8.0f,  90.0f, -3.0f, -2.0f, 2.0f, 5.0f};
    const km_activation_back_fn functions[3] = {kernels->silu, kernels->gelu_tanh,
                                                kernels->gelu_erf};
    static const km_activation kinds[3] = {KM_ACT_SILU, KM_ACT_GELU_TANH, KM_ACT_GELU_ERF};
    for (int test = 0; test < 6; test++) {
        const km_activation kind = kinds[test / 2];
        const bool gated = test % 2 == 1;
        float pre[N], up[N], d[N], factor[N];
        memcpy(pre, points, sizeof pre);
        fill(factor, 500);
        fill(d, 600);
        memcpy(up, factor, sizeof up);
        functions[test / 2](pre, gated ? up : NULL, d, N);
        for (int i = 0; i < N; i++) {
            const double x = (double)points[i], f = gated ? (double)factor[i] : 1.0;
            const double slope = (activation(kind, x + 1e-5) - activation(kind, x - 1e-5)) / 2e-5;
            close_to(pre[i], (double)d[i] * slope * f, "derivative of an activation");
            if (gated) {
                close_to(up[i], (double)d[i] * activation(kind, x), "that of the other factor");
            }
        }
    }
}

static void check_scaled_exp(const km_gradient_kernels *kernels) {
    float x[N], y[N];
    fill(x, 700);
    memcpy(y, x, sizeof y);
    kernels->scaled_exp(y, 2.5f, 0.75f, N);
    for (int i = 0; i < N; i++) {
        close_to(y[i], 2.5 * exp((double)x[i] - 0.75), "scaled exp");
    }
}

static bool check_variant(const char *cpu) {
    km_ctx *ctx = km_test_variant(1, cpu);
    if (ctx == NULL) {
        return false;
    }
    check_activations(km_ctx_gradient_kernels(ctx));
    check_scaled_exp(km_ctx_gradient_kernels(ctx));
    km_ctx_free(ctx);
    return true;
}

static void test_kernels(void **state) {
    (void)state;
    km_test_variants(check_variant);
}

/* ---- softmax and soft cap ---- */

/* d . softmax(s) with element i moved; p is what softmax gives at s. */
static double softmax_dot(const float *s, const float *d, double *p, int i, double step) {
    double total = 0.0, sum = 0.0;
    for (int k = 0; k < N; k++) {
        total += exp((double)s[k] + (k == i ? step : 0.0));
    }
    for (int k = 0; k < N; k++) {
        p[k] = exp((double)s[k] + (k == i ? step : 0.0)) / total;
        sum += p[k] * (double)d[k];
    }
    return sum;
}

static void test_softmax(void **state) {
    (void)state;
    float s[N], d[N], ds[N], p[N];
    double wide[N], other[N], sum = 0.0;
    fill(s, 700);
    fill(d, 800);
    (void)softmax_dot(s, d, wide, 0, 0.0);
    for (int i = 0; i < N; i++) {
        p[i] = (float)wide[i];
        ds[i] = d[i];
    }
    km__softmax_backward(ds, p, N);
    for (int i = 0; i < N; i++) {
        close_to(ds[i],
                 (softmax_dot(s, d, other, i, 1e-5) - softmax_dot(s, d, other, i, -1e-5)) / 2e-5,
                 "derivative of softmax");
        sum += (double)ds[i];
    }
    assert_true(fabs(sum) < 1e-6); /* a shift of all scores changes nothing */
}

static void test_softcap(void **state) {
    (void)state;
    float x[N], y[N], d[N], dx[N];
    fill(x, 900);
    fill(d, 1000);
    for (int i = 0; i < N; i++) {
        y[i] = (float)(1.3 * tanh((double)x[i] / 1.3));
        dx[i] = d[i];
    }
    km__softcap_backward(dx, y, 1.3f, N);
    for (int i = 0; i < N; i++) {
        const double t = 1.0 / cosh((double)x[i] / 1.3);
        close_to(dx[i], (double)d[i] * t * t, "derivative of a soft cap");
    }
}

/* ---- losses ---- */

static const km_target TARGETS[] = {{0, 2, 1.0}, {0, 5, -0.5}, {0, 2, 0.25}, {2, 12, 2.0}};

static double loss_double(const float *row, int64_t index, km_target_kind kind, int i,
                          double step) {
    double total = 0.0, loss = 0.0;
    for (int v = 0; v < N; v++) {
        total += exp((double)row[v] + (v == i ? step : 0.0));
    }
    for (size_t t = 0; t < sizeof TARGETS / sizeof TARGETS[0]; t++) {
        const double logit = (double)row[TARGETS[t].id] + (TARGETS[t].id == i ? step : 0.0);
        const double logprob = logit - log(total);
        if (TARGETS[t].row == index) {
            loss += TARGETS[t].weight * (kind == KM_TARGET_LOGIT     ? logit
                                         : kind == KM_TARGET_LOGPROB ? logprob
                                                                     : exp(logprob));
        }
    }
    return loss;
}

static void test_losses(void **state) {
    km_model model = {.ctx = *state};
    km_error err = KM_ERROR_INIT;
    for (int kind = KM_TARGET_LOGIT; kind <= KM_TARGET_PROB; kind++) {
        double losses[3];
        km_target_loss loss = {&model, (km_target_kind)kind, TARGETS, 4, losses};
        for (int64_t index = 0; index < 3; index++) {
            float row[N], d[N];
            fill(row, 1100 + 50 * (uint64_t)index);
            memcpy(d, row, sizeof d);
            km_test_ok(km_target_loss_row(&loss, index, d, N, &err), &err);
            close_to((float)losses[index], loss_double(row, index, loss.kind, 0, 0.0), "loss");
            for (int v = 0; v < N; v++) {
                close_to(d[v],
                         (loss_double(row, index, loss.kind, v, 1e-5) -
                          loss_double(row, index, loss.kind, v, -1e-5)) /
                             2e-5,
                         "derivative of a loss");
            }
        }
        float row[4] = {0.0f};
        assert_int_equal(km_target_loss_row(&loss, 2, row, 4, &err), KM_ERANGE);
        err = (km_error)KM_ERROR_INIT;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),
        cmocka_unit_test(test_scale_invariance),
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_softmax),
        cmocka_unit_test(test_softcap),
        cmocka_unit_test_setup_teardown(test_losses, km_test_setup, km_test_teardown),
    };
    return cmocka_run_group_tests_name("gradient_ops", tests, NULL, NULL);
}
