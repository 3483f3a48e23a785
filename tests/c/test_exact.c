/* test_exact.c: the bits of a token's logits depend on the token and its ancestors alone: not on
 * what it is computed beside, in which order, in how many passes, or by how many threads. */
#include "forest.h"

/* A token as it lies in another forest: where, or -1. */
typedef struct placement {
    forest f;
    int64_t of[MAX_NODES];
} placement;

/* Output logits (n, V) of every token, in a forest that `at` places somewhere in `f`. */
static void expect_same_bits(const km_model *model, const seen *expected, const placement *p,
                             const char *what) {
    const int64_t L = model->config.n_layers, vocab = model->config.vocab_size;
    seen got;
    run_all(&got, model, &p->f);
    for (int64_t layer = 0; layer <= L; layer++) {
        for (int64_t i = 0; i < p->f.n; i++) {
            const float *a = got.logits + (layer * got.n + i) * vocab;
            const float *b = expected->logits + (layer * expected->n + p->of[i]) * vocab;
            if (memcmp(a, b, (size_t)vocab * sizeof *a) != 0) {
                fail_msg("%s: %s, layer %d, token %d differs", model->config.arch, what, (int)layer,
                         (int)p->of[i]);
            }
        }
    }
    seen_clear(&got);
}

/* The path of one token alone. */
static void place_path(placement *p, const forest *f, int64_t node) {
    path_of(&p->f, f, node);
    int64_t at = p->f.n;
    for (int64_t i = node; i >= 0; i = f->parent[i]) {
        p->of[--at] = i;
    }
}

/* Every third path one after another, sharing nothing: a batch of plain sequences. */
static void place_batch(placement *p, const forest *f, uint64_t seed) {
    placement *one = malloc(sizeof *one);
    assert_non_null(one);
    p->f.n = 0;
    for (int64_t k = 0; k < f->n; k++) {
        int64_t node = (int64_t)km_random_below((uint64_t)f->n, 31, seed, (uint64_t)k);
        place_path(one, f, node);
        if (p->f.n + one->f.n > MAX_NODES) {
            break;
        }
        for (int64_t i = 0; i < one->f.n; i++) {
            p->f.ids[p->f.n + i] = one->f.ids[i];
            p->f.parent[p->f.n + i] = i == 0 ? -1 : p->f.n + i - 1;
            p->of[p->f.n + i] = one->of[i];
        }
        p->f.n += one->f.n;
    }
    free(one);
}

/* The same tree in another order: among the tokens whose parents are placed, any may be next. */
static void place_shuffled(placement *p, const forest *f, uint64_t seed) {
    int64_t where[MAX_NODES], order[MAX_NODES];
    for (int64_t i = 0; i < f->n; i++) {
        where[i] = -1;
    }
    for (p->f.n = 0; p->f.n < f->n;) {
        int64_t n_open = 0;
        for (int64_t i = 0; i < f->n; i++) {
            if (where[i] < 0 && (f->parent[i] < 0 || where[f->parent[i]] >= 0)) {
                order[n_open++] = i;
            }
        }
        int64_t k = (int64_t)km_random_below((uint64_t)n_open, 32, seed, (uint64_t)p->f.n);
        int64_t node = order[k], at = p->f.n++;
        where[node] = at;
        p->of[at] = node;
        p->f.ids[at] = f->ids[node];
        p->f.parent[at] = f->parent[node] < 0 ? -1 : where[f->parent[node]];
    }
}

static void check_placements(const km_model *model, const forest *f, uint64_t seed) {
    placement *p = malloc(sizeof *p);
    seen expected;
    assert_non_null(p);
    run_all(&expected, model, f);
    place_shuffled(p, f, seed);
    expect_same_bits(model, &expected, p, "shuffled");
    place_batch(p, f, seed);
    expect_same_bits(model, &expected, p, "as a batch of sequences");
    for (int64_t node = (int64_t)seed; node < f->n; node += 29) {
        place_path(p, f, node);
        expect_same_bits(model, &expected, p, "alone");
    }
    seen_clear(&expected);
    free(p);
}

/* Random forests, and one long chain that many short branches leave. */
static void check_model(km_ctx *ctx, km_config config) {
    synthetic s;
    forest *f = malloc(sizeof *f);
    assert_non_null(f);
    synthetic_init(&s, ctx, config);
    for (uint64_t seed = 0; seed < 3; seed++) {
        make_random_forest(f, 120 + 17 * (int64_t)seed, 3 + 3 * seed, config.vocab_size);
        check_placements(&s.model, f, seed);
    }
    make_chain(f, 200, config.vocab_size);
    for (int64_t i = 130; i < f->n; i++) {
        f->parent[i] = i % 3 == 0 ? 129 : i - 1;
    }
    check_placements(&s.model, f, 3);
    synthetic_clear(&s);
    free(f);
}

static void test_bits_follow_from_the_ancestors(void **state) {
    (void)state;
    static const char *const cpus[] = KM_TEST_CPUS;
    for (int i = 0; i < KM_TEST_N_CPUS; i++) {
        km_ctx *ctx = km_test_variant(2, cpus[i]);
        for (int c = 0; ctx != NULL && c < N_SYNTHETIC; c++) {
            check_model(ctx, synthetic_config(c));
        }
        km_ctx_free(ctx);
    }
}

/* Heads as wide as those of real models, so that no product is all edge. */
static void test_wide_heads(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(2);
    km_config c = llama_config();
    c.n_heads = 3;
    c.n_kv_heads = 1;
    c.head_dim = c.rotary_dim = 64;
    check_model(ctx, c);
    c.n_kv_heads = 3;
    c.sliding_window = 7;
    memset(c.windowed, 1, sizeof c.windowed);
    check_model(ctx, c);
    km_ctx_free(ctx);
}

/* ---- the test can fail ---- */

/* Another order of summation gives other bits: a chain whose model has two of its neurons, and one
 * of its heads' dimensions, swapped computes the same function. */
static void test_another_order_gives_other_bits(void **state) {
    (void)state;
    km_ctx *ctx = km_test_ctx(1);
    synthetic s;
    forest *f = malloc(sizeof *f);
    seen before, after;
    assert_non_null(f);
    synthetic_init(&s, ctx, llama_config());
    make_chain(f, 40, s.model.config.vocab_size);
    run_all(&before, &s.model, f);
    km_layer_weights *w = &s.layers[0];
    float *v = (float *)(uintptr_t)w->w_down.data, *up = (float *)(uintptr_t)w->w_up.data;
    float *gate = (float *)(uintptr_t)w->w_gate.data;
    for (int64_t i = 0; i < w->w_down.rows; i++) { /* neurons 1 and 30 */
        float kept = v[i * w->w_down.cols + 1];
        v[i * w->w_down.cols + 1] = v[i * w->w_down.cols + 30];
        v[i * w->w_down.cols + 30] = kept;
    }
    for (int64_t i = 0; i < w->w_up.cols; i++) {
        float kept = up[w->w_up.cols + i], kept_gate = gate[w->w_up.cols + i];
        up[w->w_up.cols + i] = up[30 * w->w_up.cols + i];
        up[30 * w->w_up.cols + i] = kept;
        gate[w->w_up.cols + i] = gate[30 * w->w_up.cols + i];
        gate[30 * w->w_up.cols + i] = kept_gate;
    }
    run_all(&after, &s.model, f);
    const int64_t n = (s.model.config.n_layers + 1) * f->n * before.vocab;
    assert_true(memcmp(before.logits, after.logits, (size_t)n * sizeof(float)) != 0);
    for (int64_t i = 0; i < n; i++) {
        assert_true(fabsf(before.logits[i] - after.logits[i]) < 1e-4f);
    }
    seen_clear(&before);
    seen_clear(&after);
    synthetic_clear(&s);
    free(f);
    km_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits_follow_from_the_ancestors),
        cmocka_unit_test(test_wide_heads),
        cmocka_unit_test(test_another_order_gives_other_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
