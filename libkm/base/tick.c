/* tick.c: progress and cancellation of one long piece of work. */
#include <time.h>

#include "base/ctx_private.h"

#define TICK_NS ((int64_t)50 * 1000 * 1000)

int64_t km__now_ns(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- polling between loops ---- */

typedef struct poll {
    km_poll_fn fn;
    void *payload;
    int64_t last_ns;
} poll;
static _Thread_local poll own;

void km_poll_set(km_poll_fn fn, void *payload) {
    own = (poll){fn, payload, km__now_ns()};
}

km_status km__poll(km_error *err) {
    if (own.fn == NULL) {
        return KM_OK;
    }
    const int64_t now = km__now_ns();
    if (now - own.last_ns < TICK_NS) {
        return KM_OK;
    }
    own.last_ns = now;
    const km_status status = own.fn(own.payload);
    return status == KM_OK ? KM_OK : KM_SET(err, status, "stopped (%s)", km_status_name(status));
}

/* ---- ticks ---- */

/* A cancellation meant for earlier work must not stop this one. */
void km_tick_init(km_tick *tick, km_ctx *ctx, km_tick_fn fn, void *payload, int64_t total) {
    *tick = (km_tick){ctx, fn, payload, total, km__now_ns()};
    atomic_store(&ctx->cancelled, false);
}

km_status km_tick_update(km_tick *tick, int64_t done, km_error *err) {
    if (atomic_exchange(&tick->ctx->cancelled, false)) {
        return KM_SET(err, KM_ECANCELLED, "cancelled");
    }
    if (tick->fn == NULL) {
        return KM_OK;
    }
    int64_t now = km__now_ns();
    bool last = tick->total > 0 && done >= tick->total;
    if (!last && now - tick->last_ns < TICK_NS) {
        return KM_OK;
    }
    tick->last_ns = now;
    km_status status = tick->fn(tick->payload, done, tick->total);
    if (status == KM_ECANCELLED) {
        return KM_SET(err, KM_ECANCELLED, "cancelled");
    }
    if (status != KM_OK) {
        return KM_SET(err, status, "the progress callback failed (%s)", km_status_name(status));
    }
    return KM_OK;
}
