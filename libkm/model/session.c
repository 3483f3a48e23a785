/* session.c: keys and values kept between passes. Nodes lie in the order they came in; what is
 * behind `length` is free to be overwritten, so that a pass that fails leaves a session as it was.
 */
#include <string.h>
#include <unistd.h>

#include "model/forward_private.h"

static int64_t kv_width(const km_session *session) {
    return (int64_t)session->model->config.n_kv_heads * session->model->config.head_dim;
}

static km_status check_memory(const km_model *model, int64_t capacity, km_error *err) {
    const km_config *config = &model->config;
    const double a_token = 2.0 * config->n_layers * config->n_kv_heads * config->head_dim * 4.0;
    const double bytes = a_token * (double)capacity, available = (double)km_memory_available();
    if (bytes > available) {
        return KM_SET(err, KM_ENOMEM,
                      "a session of %lld tokens needs %.0f MiB; %.0f MiB are available",
                      (long long)capacity, bytes / 1048576.0, available / 1048576.0);
    }
    return KM_OK;
}

static km_status allocate(km_session *session, km_error *err) {
    km_ctx *ctx = session->model->ctx;
    const int64_t n = session->capacity;
    const size_t a_row = (size_t)kv_width(session) * sizeof(float);
    const size_t bytes = (size_t)n * (size_t)session->model->config.n_layers * a_row;
    KM_TRY(km_alloc((void **)&session->keys, ctx, bytes, err));
    KM_TRY(km_alloc((void **)&session->values, ctx, bytes, err));
    KM_TRY(km_alloc((void **)&session->parent, ctx, (size_t)n * sizeof *session->parent, err));
    KM_TRY(km_alloc((void **)&session->depth, ctx, (size_t)n * sizeof *session->depth, err));
    return km_alloc((void **)&session->segment_start, ctx,
                    (size_t)n * sizeof *session->segment_start, err);
}

km_status km_session_new(km_session **out, const km_model *model, int64_t capacity, km_error *err) {
    if (out == NULL || model == NULL) {
        return KM_SET(err, KM_EINVAL, "a session needs a model and a place for it");
    }
    if (capacity < 1 || capacity > INT32_MAX) {
        return KM_SET(err, KM_EINVAL, "capacity is %lld; a session holds 1 to %d tokens",
                      (long long)capacity, INT32_MAX);
    }
    km_status status = KM_OK;
    km_session *session = NULL;
    KM_TRY(check_memory(model, capacity, err));
    KM_TRY(km_alloc_array((void **)&session, model->ctx, 1, sizeof *session, err));
    session->model = km_model_ref((km_model *)(uintptr_t)model);
    session->capacity = capacity;
    session->pid = (int)getpid();
    atomic_init(&session->busy, false);
    KM_GO(allocate(session, err));
    *out = session;
    session = NULL;
done:
    km_session_free(session);
    return status;
}

void km_session_free(km_session *session) {
    if (session == NULL) {
        return;
    }
    km_model *model = session->model;
    km_free(model->ctx, session->keys);
    km_free(model->ctx, session->values);
    km_free(model->ctx, session->parent);
    km_free(model->ctx, session->depth);
    km_free(model->ctx, session->segment_start);
    km__workspace_clear(&session->work, model->ctx);
    km_free(model->ctx, session);
    km_model_free(model);
}

int64_t km_session_length(const km_session *session) {
    return session->length;
}

km_status km__session_enter(km_session *session, km_error *err) {
    if (session->pid != (int)getpid()) {
        return KM_SET(err, KM_ESTATE,
                      "the session was made in process %d, before the fork; make one here",
                      session->pid);
    }
    bool busy = false;
    if (!atomic_compare_exchange_strong(&session->busy, &busy, true)) {
        return KM_SET(err, KM_ESTATE, "another thread is using the session");
    }
    return KM_OK;
}

void km__session_leave(km_session *session) {
    atomic_store(&session->busy, false);
}

km_status km_session_truncate(km_session *session, int64_t length, km_error *err) {
    if (session == NULL) {
        return KM_SET(err, KM_EINVAL, "no session");
    }
    km_status status = KM_OK;
    KM_TRY(km__session_enter(session, err));
    if (length < 0 || length > session->length) {
        KM_FAIL(err, KM_EINVAL, "cannot cut a session of %lld tokens to %lld",
                (long long)session->length, (long long)length);
    }
    session->length = length;
done:
    km__session_leave(session);
    return status;
}

/* ---- keeping some nodes ---- */

/* renumbered (length): the new number of a node, or -1. */
static km_status renumber(int64_t *renumbered, const km_session *session, const int64_t *nodes,
                          int64_t n, km_error *err) {
    memset(renumbered, 0xff, (size_t)session->length * sizeof *renumbered); /* all -1 */
    for (int64_t i = 0; i < n; i++) {
        if (nodes[i] < (i == 0 ? 0 : nodes[i - 1] + 1) || nodes[i] >= session->length) {
            return KM_SET(err, KM_EINVAL, "nodes[%lld] is %lld; nodes must rise and lie below %lld",
                          (long long)i, (long long)nodes[i], (long long)session->length);
        }
        const int64_t parent = session->parent[nodes[i]];
        if (parent >= 0 && renumbered[parent] < 0) {
            return KM_SET(err, KM_EINVAL, "nodes[%lld] is %lld; its parent %lld is not kept",
                          (long long)i, (long long)nodes[i], (long long)parent);
        }
        renumbered[nodes[i]] = i;
    }
    return KM_OK;
}

/* Numbers only fall, so rows move towards the front and none is lost on the way. */
static void compact(float *rows, const int64_t *nodes, int64_t n, int64_t width) {
    for (int64_t i = 0; i < n; i++) {
        if (nodes[i] != i) {
            memcpy(rows + i * width, rows + nodes[i] * width, (size_t)width * sizeof *rows);
        }
    }
}

static void keep(km_session *session, const int64_t *renumbered, const int64_t *nodes, int64_t n) {
    const int64_t width = kv_width(session);
    for (int32_t layer = 0; layer < session->model->config.n_layers; layer++) {
        compact(session->keys + layer * session->capacity * width, nodes, n, width);
        compact(session->values + layer * session->capacity * width, nodes, n, width);
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t parent = session->parent[nodes[i]];
        session->parent[i] = parent < 0 ? -1 : renumbered[parent];
        session->depth[i] = session->depth[nodes[i]];
        session->segment_start[i] = session->parent[i] >= 0 && session->parent[i] == i - 1
                                        ? session->segment_start[i - 1]
                                        : i;
    }
    session->length = n;
}

km_status km_session_keep(km_session *session, const int64_t *nodes, int64_t n, km_error *err) {
    if (session == NULL || n < 0 || (n > 0 && nodes == NULL)) {
        return KM_SET(err, KM_EINVAL, "no session, or %lld nodes to keep", (long long)n);
    }
    km_status status = KM_OK;
    int64_t *renumbered = NULL;
    KM_TRY(km__session_enter(session, err));
    KM_GO(km_alloc_array((void **)&renumbered, session->model->ctx, session->length,
                         sizeof *renumbered, err));
    KM_GO(renumber(renumbered, session, nodes, n, err));
    keep(session, renumbered, nodes, n);
done:
    km_free(session->model->ctx, renumbered);
    km__session_leave(session);
    return status;
}
