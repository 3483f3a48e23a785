/* test_session.c: keys and values kept between passes: the bits of one pass over everything,
 * however the tokens are split; forgetting, renumbering, refusals, a second thread, a forked child.
 */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "forest.h"

/* Run tokens first .. first+n-1 of a forest in a session that holds those before. */
static km_status step(const km_model *model, km_session *session, const forest *f, int64_t first,
                      int64_t n, seen *s, km_error *err) {
    int64_t rows[MAX_NODES];
    for (int64_t i = 0; i < n; i++) {
        rows[i] = i;
    }
    km_forward_request request = {.tree = {f->ids + first, f->parent + first, n},
                                  .rows = s == NULL ? NULL : rows,
                                  .n_rows = s == NULL ? 0 : n,
                                  .lens_rows = s == NULL ? NULL : rows,
                                  .n_lens_rows = s == NULL ? 0 : n,
                                  .on_logits = look,
                                  .payload = s,
                                  .session = session};
    if (s != NULL) {
        seen_init(s, &model->config, n);
    }
    return km_model_forward(model, &request, err);
}

static km_session *open_session(const km_model *model, int64_t capacity) {
    km_session *session = NULL;
    km_error err = KM_ERROR_INIT;
    km_test_ok(km_session_new(&session, model, capacity, &err), &err);
    return session;
}

static void expect_rows(const km_model *model, const seen *got, const seen *expected,
                        const int64_t *of, int64_t first) {
    const int64_t vocab = got->vocab;
    for (int64_t layer = 0; layer <= model->config.n_layers; layer++) {
        for (int64_t i = 0; i < got->n; i++) {
            const int64_t node = of == NULL ? first + i : of[first + i];
            assert_memory_equal(got->logits + (layer * got->n + i) * vocab,
                                expected->logits + (layer * expected->n + node) * vocab,
                                (size_t)vocab * sizeof(float));
        }
    }
}

/* Pieces of random length; every other one asks for nothing. */
static void check_split(const km_model *model, const forest *f, uint64_t seed) {
    km_session *session = open_session(model, f->n);
    seen expected, got;
    km_error err = KM_ERROR_INIT;
    run_all(&expected, model, f);
    int64_t n;
    for (int64_t first = 0; first < f->n; first += n) {
        n = 1 + (int64_t)km_random_below(40, 41, seed, (uint64_t)first);
        n = n < f->n - first ? n : f->n - first;
        const bool silent = km_random_below(2, 42, seed, (uint64_t)first) == 1;
        km_test_ok(step(model, session, f, first, n, silent ? NULL : &got, &err), &err);
        assert_int_equal(km_session_length(session), first + n);
        if (!silent) {
            expect_rows(model, &got, &expected, NULL, first);
            seen_clear(&got);
        }
    }
    seen_clear(&expected);
    km_session_free(session);
}

static void test_a_split_pass_is_one_pass(void **state) {
    forest *f = malloc(sizeof *f);
    assert_non_null(f);
    for (int c = 0; c < N_SYNTHETIC; c++) {
        synthetic s;
        synthetic_init(&s, *state, synthetic_config(c));
        for (uint64_t seed = 0; seed < 3; seed++) {
            make_random_forest(f, 150, 4 + 2 * seed, s.model.config.vocab_size);
            check_split(&s.model, f, seed);
        }
        make_chain(f, 90, s.model.config.vocab_size);
        check_split(&s.model, f, 9);
        assert_int_equal(atomic_load(&s.model.refs), 1000);
        synthetic_clear(&s);
    }
    free(f);
}

static void test_truncated_sessions_go_on(void **state) {
    synthetic s;
    forest *f = malloc(sizeof *f), *other = malloc(sizeof *other);
    seen expected, got;
    km_error err = KM_ERROR_INIT;
    assert_true(f != NULL && other != NULL);
    synthetic_init(&s, *state, gemma_config());
    make_random_forest(f, 80, 8, s.model.config.vocab_size);
    *other = *f;
    for (int64_t i = 50; i < 80; i++) {
        other->ids[i] = (f->ids[i] + 1) % s.model.config.vocab_size;
        other->parent[i] = i - 1 - i % 4;
    }
    km_session *session = open_session(&s.model, 80);
    km_test_ok(step(&s.model, session, other, 0, 80, NULL, &err), &err);
    km_test_ok(km_session_truncate(session, 50, &err), &err);
    assert_int_equal(km_session_length(session), 50);
    km_test_ok(step(&s.model, session, f, 50, 30, &got, &err), &err);
    run_all(&expected, &s.model, f);
    expect_rows(&s.model, &got, &expected, NULL, 50);
    km_test_fails(km_session_truncate(session, 81, &err), KM_EINVAL, &err, "80 tokens to 81");
    km_test_fails(km_session_truncate(session, -1, &err), KM_EINVAL, &err, "to -1");
    seen_clear(&expected);
    seen_clear(&got);
    km_session_free(session);
    synthetic_clear(&s);
    free(f);
    free(other);
}

/* Keep the tokens on the paths to some nodes, then grow: as a forest of those alone would. */
static void test_kept_nodes_are_renumbered(void **state) {
    synthetic s;
    forest *f = malloc(sizeof *f), *small = malloc(sizeof *small);
    seen expected, got;
    km_error err = KM_ERROR_INIT;
    int64_t nodes[MAX_NODES], where[MAX_NODES], n = 0;
    bool keep[MAX_NODES] = {false};
    assert_true(f != NULL && small != NULL);
    synthetic_init(&s, *state, gemma_config());
    make_random_forest(f, 120, 7, s.model.config.vocab_size);
    for (int64_t k = 5; k < 120; k += 13) {
        for (int64_t i = k; i >= 0; i = f->parent[i]) {
            keep[i] = true;
        }
    }
    for (int64_t i = 0; i < 120; i++) {
        if (keep[i]) {
            where[i] = n;
            small->ids[n] = f->ids[i];
            small->parent[n] = f->parent[i] < 0 ? -1 : where[f->parent[i]];
            nodes[n++] = i;
        }
    }
    for (int64_t i = n; i < n + 40; i++) {
        small->ids[i] = (int32_t)(i % s.model.config.vocab_size);
        small->parent[i] = i % 5 == 0 ? i - 7 : i - 1;
    }
    small->n = n + 40;
    assert_true(n > 20 && n < 110);
    km_session *session = open_session(&s.model, 160);
    km_test_ok(step(&s.model, session, f, 0, 120, NULL, &err), &err);
    km_test_ok(km_session_keep(session, nodes, n, &err), &err);
    assert_int_equal(km_session_length(session), n);
    km_test_ok(step(&s.model, session, small, n, 40, &got, &err), &err);
    run_all(&expected, &s.model, small);
    expect_rows(&s.model, &got, &expected, NULL, n);
    km_test_ok(km_session_keep(session, NULL, 0, &err), &err);
    assert_int_equal(km_session_length(session), 0);
    seen_clear(&expected);
    seen_clear(&got);
    km_session_free(session);
    synthetic_clear(&s);
    free(f);
    free(small);
}

static void test_bad_calls_leave_a_session_as_it_was(void **state) {
    synthetic s, other;
    forest *f = malloc(sizeof *f);
    seen expected, got;
    km_session *session = NULL;
    km_error err = KM_ERROR_INIT;
    assert_non_null(f);
    synthetic_init(&s, *state, llama_config());
    synthetic_init(&other, *state, llama_config());
    make_chain(f, 20, s.model.config.vocab_size);
    km_test_fails(km_session_new(&session, &s.model, 0, &err), KM_EINVAL, &err, "capacity is 0");
    km_test_fails(km_session_new(&session, &s.model, (int64_t)1 << 40, &err), KM_EINVAL, &err,
                  "capacity is 1099511627776; a session holds 1 to 2147483647");
    km_test_fails(km_session_new(&session, NULL, 9, &err), KM_EINVAL, &err, "needs a model");
    km_test_fails(km_session_new(&session, &s.model, INT32_MAX, &err), KM_ENOMEM, &err,
                  "a session of 2147483647 tokens needs");
    session = open_session(&s.model, 15);
    km_test_ok(step(&s.model, session, f, 0, 10, NULL, &err), &err);
    km_test_fails(step(&s.model, session, f, 10, 10, NULL, &err), KM_ERANGE, &err,
                  "10 tokens more than the 10 a session of 15");
    km_test_fails(step(&other.model, session, f, 10, 2, NULL, &err), KM_EINVAL, &err,
                  "another model");
    f->parent[11] = 11; /* its own parent */
    km_test_fails(step(&s.model, session, f, 10, 2, NULL, &err), KM_EINVAL, &err, "parent 11");
    f->parent[11] = 10;
    static const int64_t bad[][2] = {{0, 2}, {0, 0}, {0, 10}};
    static const char *const messages[] = {"parent 1 is not kept", "nodes must rise", "below 10"};
    for (int i = 0; i < 3; i++) {
        km_test_fails(km_session_keep(session, bad[i], 2, &err), KM_EINVAL, &err, messages[i]);
    }
    float *w_down = (float *)(uintptr_t)s.layers[1].w_down.data, kept = *w_down;
    *w_down = NAN;
    assert_int_equal(step(&s.model, session, f, 10, 5, NULL, NULL), KM_ENUMERIC);
    *w_down = kept;
    assert_int_equal(km_session_length(session), 10);
    km_test_ok(step(&s.model, session, f, 10, 5, &got, &err), &err);
    f->n = 15;
    run_all(&expected, &s.model, f);
    expect_rows(&s.model, &got, &expected, NULL, 10);
    seen_clear(&expected);
    seen_clear(&got);
    km_session_free(session);
    km_session_free(NULL);
    synthetic_clear(&s);
    synthetic_clear(&other);
    free(f);
}

/* ---- one user at a time ---- */

typedef struct intrusion {
    const km_model *model;
    km_session *session;
    const forest *f;
    km_status forward, truncate, keep;
} intrusion;

static void *intrude(void *payload) {
    intrusion *in = payload;
    in->forward = step(in->model, in->session, in->f, 0, 1, NULL, NULL);
    in->truncate = km_session_truncate(in->session, 0, NULL);
    in->keep = km_session_keep(in->session, NULL, 0, NULL);
    return NULL;
}

/* While a pass shows its logits, another thread tries. */
static km_status let_in(void *payload, int64_t index, int32_t layer, const float *logits,
                        int64_t vocab, km_error *err) {
    (void)index;
    (void)layer;
    (void)logits;
    (void)vocab;
    (void)err;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, intrude, payload), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    return KM_OK;
}

static void test_a_second_thread_is_told(void **state) {
    synthetic s;
    forest *f = malloc(sizeof *f);
    assert_non_null(f);
    synthetic_init(&s, *state, llama_config());
    make_chain(f, 5, s.model.config.vocab_size);
    km_session *session = open_session(&s.model, 20);
    intrusion in = {&s.model, session, f, KM_OK, KM_OK, KM_OK};
    int64_t rows[] = {4};
    km_error err = KM_ERROR_INIT;
    km_forward_request request = {.tree = {f->ids, f->parent, 5},
                                  .rows = rows,
                                  .n_rows = 1,
                                  .on_logits = let_in,
                                  .payload = &in,
                                  .session = session};
    km_test_ok(km_model_forward(&s.model, &request, &err), &err);
    assert_int_equal(in.forward, KM_ESTATE);
    assert_int_equal(in.truncate, KM_ESTATE);
    assert_int_equal(in.keep, KM_ESTATE);
    assert_int_equal(km_session_length(session), 5);
    km_session_free(session);
    synthetic_clear(&s);
    free(f);
}

/* A child must not go on with what it inherited, but can have its own. */
static void test_after_fork(void **state) {
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); /* ThreadSanitizer cannot follow threads started after fork() */
#endif
    km_ctx *ctx = km_test_ctx(2);
    synthetic s;
    forest *f = malloc(sizeof *f);
    km_error err = KM_ERROR_INIT;
    assert_non_null(f);
    synthetic_init(&s, ctx, llama_config());
    make_chain(f, 5, s.model.config.vocab_size);
    km_session *session = open_session(&s.model, 20);
    km_test_ok(step(&s.model, session, f, 0, 3, NULL, &err), &err);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        km_session *own = NULL;
        km_status inherited = step(&s.model, session, f, 3, 2, NULL, &err);
        bool told = inherited == KM_ESTATE && strstr(err.message, "before the fork") != NULL;
        bool works = km_session_new(&own, &s.model, 20, NULL) == KM_OK &&
                     step(&s.model, own, f, 0, 5, NULL, NULL) == KM_OK;
        _exit(told && works ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    km_test_ok(step(&s.model, session, f, 3, 2, NULL, &err), &err);
    km_session_free(session);
    synthetic_clear(&s);
    free(f);
    km_ctx_free(ctx);
}

/* Allocations of a pass over one more token, once the session has its workspace. */
static void test_steps_hardly_allocate(void **state) {
    (void)state;
    km_test_memory memory;
    km_allocator allocator = km_test_failing_allocator(&memory, -1);
    km_ctx_options options = KM_CTX_OPTIONS_INIT;
    km_ctx *ctx = NULL;
    synthetic s;
    forest *f = malloc(sizeof *f);
    km_error err = KM_ERROR_INIT;
    options.n_threads = 1;
    options.allocator = &allocator;
    assert_non_null(f);
    km_test_ok(km_ctx_new(&ctx, &options, &err), &err);
    synthetic_init(&s, ctx, llama_config());
    make_chain(f, 600, s.model.config.vocab_size);
    km_session *session = open_session(&s.model, 600);
    km_test_ok(step(&s.model, session, f, 0, 300, NULL, &err), &err);
    const long long blocks = atomic_load(&memory.live_blocks);
    long long bytes = atomic_load(&memory.live_bytes), changes = 0;
    for (int64_t i = 300; i < 600; i++) {
        km_test_ok(step(&s.model, session, f, i, 1, NULL, &err), &err);
        changes += atomic_load(&memory.live_bytes) != bytes;
        bytes = atomic_load(&memory.live_bytes);
        assert_int_equal(atomic_load(&memory.live_blocks), blocks);
    }
    assert_true(changes <= 8); /* the workspace was made anew */
    km_session_free(session);
    synthetic_clear(&s);
    km_ctx_free(ctx);
    free(f);
}

static km_status grow(km_ctx *ctx, km_error *err) {
    static const int64_t nodes[] = {0, 1, 2};
    synthetic s;
    forest *f = malloc(sizeof *f);
    km_session *session = NULL;
    km_status status = KM_OK;
    synthetic_init(&s, ctx, llama_config());
    make_chain(f, 9, s.model.config.vocab_size);
    KM_GO(km_session_new(&session, &s.model, 9, err));
    KM_GO(step(&s.model, session, f, 0, 3, NULL, err));
    KM_GO(km_session_keep(session, nodes, 3, err));
    KM_GO(step(&s.model, session, f, 3, 6, NULL, err));
done:
    km_session_free(session);
    synthetic_clear(&s);
    free(f);
    return status;
}

static void test_every_failing_allocation_is_reported(void **state) {
    (void)state;
    km_test_every_allocation(grow);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_split_pass_is_one_pass),
        cmocka_unit_test(test_truncated_sessions_go_on),
        cmocka_unit_test(test_kept_nodes_are_renumbered),
        cmocka_unit_test(test_bad_calls_leave_a_session_as_it_was),
        cmocka_unit_test(test_a_second_thread_is_told),
        cmocka_unit_test(test_after_fork),
        cmocka_unit_test(test_steps_hardly_allocate),
        cmocka_unit_test(test_every_failing_allocation_is_reported),
    };
    return cmocka_run_group_tests(tests, km_test_setup, km_test_teardown);
}
