/* pool.c: a pthread pool for loops cut by index. The ranges depend on n and grain alone; which
 * thread takes which range is left to the moment, so results do not depend on the thread count.
 *
 * Ranges are claimed in rising order. When one fails, every range below it has been claimed and
 * runs to its end, and those above are skipped: the lowest failing range is always the one
 * reported. A worker that wakes after the job is over does not join it, so short loops do not wait
 * for sleepers.
 *
 * A step of decoding is some hundred loops of a few dozen microseconds, so a loop among threads
 * that are awake takes no lock: workers that wait look at `epoch`, join and leave by way of
 * `entry`, and the lock is for those that have gone to sleep.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "base/ctx_private.h"

#define SPIN_TURNS 4000
#define OPEN 0x80000000U

typedef struct job {
    km_range_fn fn;
    void *payload;
    int64_t n, grain, n_ranges;
    atomic_int_fast64_t next;   /* the next range to claim */
    atomic_int_fast64_t failed; /* lowest failing range; n_ranges: none */
    km_status status;           /* of that range; under the pool's lock, as is error */
    km_error error;
} job;

typedef struct worker_arg {
    km_ctx *ctx;
    int worker;
} worker_arg;

struct km__pool {
    atomic_int pid;       /* the process the threads below live in; -1 while a child renews them */
    pthread_mutex_t turn; /* held by the thread whose loop runs */
    pthread_mutex_t lock; /* for going to sleep, and for what failed */
    pthread_cond_t wake, finished;
    atomic_uint epoch; /* rises with each job and at the stop */
    atomic_uint entry; /* workers inside the current job, and OPEN while it takes more */
    atomic_int asleep; /* workers that wait for `wake`, or are about to */
    atomic_bool stop;
    int spin_turns;
    int n_started; /* worker threads that run; worker 0 is the caller */
    pthread_t *threads;
    worker_arg *args;
    job job;
};

/* The loop this thread is inside of, so that a nested loop of the same context runs in place. */
typedef struct inside {
    const km_ctx *ctx;
    int worker;
} inside;
static _Thread_local inside current;

static void pause_cpu(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void record_failure(km__pool *pool, job *work, int64_t range, km_status status,
                           const km_error *error) {
    (void)pthread_mutex_lock(&pool->lock);
    if (range < atomic_load(&work->failed)) {
        atomic_store(&work->failed, range);
        work->status = status;
        work->error = *error;
    }
    (void)pthread_mutex_unlock(&pool->lock);
}

static km_status run_range(km_ctx *ctx, const job *work, int64_t range, int worker,
                           km_error *error) {
    if (atomic_load(&ctx->cancelled)) {
        return KM_SET(error, KM_ECANCELLED, "cancelled");
    }
    int64_t begin = range * work->grain;
    int64_t rest = work->n - begin;
    int64_t end = begin + (rest < work->grain ? rest : work->grain);
    km_status status = work->fn(work->payload, begin, end, worker, error);
    if (status != KM_OK) {
        (void)KM_SET(error, status, "a parallel loop failed (%s)", km_status_name(status));
    }
    return status;
}

/* Claim and run ranges until none is left or one below the next has failed. */
static void run_job(km_ctx *ctx, job *work, int worker) {
    inside before = current;
    current = (inside){ctx, worker};
    for (;;) {
        int64_t range = atomic_fetch_add(&work->next, 1);
        if (range >= work->n_ranges || range > atomic_load(&work->failed)) {
            break;
        }
        km_error error = KM_ERROR_INIT;
        km_status status = run_range(ctx, work, range, worker, &error);
        if (status != KM_OK) {
            record_failure(ctx->pool, work, range, status, &error);
        }
    }
    current = before;
}

/* Wait for a job newer than `seen`. Either the thread that opens one sees this one asleep, or this
 * one sees the new epoch. */
static void wait_for_job(km__pool *pool, unsigned int seen) {
    for (int turn = 0; turn < pool->spin_turns && atomic_load(&pool->epoch) == seen; turn++) {
        pause_cpu();
    }
    if (atomic_load(&pool->epoch) != seen) {
        return;
    }
    (void)pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->asleep, 1);
    while (atomic_load(&pool->epoch) == seen) {
        (void)pthread_cond_wait(&pool->wake, &pool->lock);
    }
    atomic_fetch_sub(&pool->asleep, 1);
    (void)pthread_mutex_unlock(&pool->lock);
}

/* Whether the current job takes this worker; what the job is may be read from then on. */
static bool join_job(km__pool *pool) {
    unsigned int entry = atomic_load(&pool->entry);
    while ((entry & OPEN) != 0) {
        if (atomic_compare_exchange_weak(&pool->entry, &entry, entry + 1)) {
            return true;
        }
    }
    return false;
}

static void leave_job(km__pool *pool) {
    if (atomic_fetch_sub(&pool->entry, 1) == 1) { /* closed, and the last to leave */
        (void)pthread_mutex_lock(&pool->lock);
        (void)pthread_cond_signal(&pool->finished);
        (void)pthread_mutex_unlock(&pool->lock);
    }
}

static void *worker_main(void *payload) {
    worker_arg arg = *(worker_arg *)payload;
    km__pool *pool = arg.ctx->pool;
    unsigned int seen = 0;
    for (;;) {
        wait_for_job(pool, seen);
        seen = atomic_load(&pool->epoch);
        if (atomic_load(&pool->stop)) {
            return NULL;
        }
        if (join_job(pool)) {
            run_job(arg.ctx, &pool->job, arg.worker);
            leave_job(pool);
        }
    }
}

static void init_primitives(km__pool *pool) {
    (void)pthread_mutex_init(&pool->turn, NULL);
    (void)pthread_mutex_init(&pool->lock, NULL);
    (void)pthread_cond_init(&pool->wake, NULL);
    (void)pthread_cond_init(&pool->finished, NULL);
    atomic_store(&pool->epoch, 0);
    atomic_store(&pool->entry, 0);
    atomic_store(&pool->asleep, 0);
    atomic_store(&pool->stop, false);
    pool->n_started = 0;
}

/* After fork() the child has the memory but not the threads, and any lock may have been taken by
 * one of them: start from fresh primitives. One thread of the child does it, others wait. */
static void renew_after_fork(km__pool *pool) {
    int self = (int)getpid();
    int owner = atomic_load(&pool->pid);
    while (owner != self) {
        if (owner != -1 && atomic_compare_exchange_strong(&pool->pid, &owner, -1)) {
            init_primitives(pool);
            atomic_store(&pool->pid, self);
        }
        (void)sched_yield();
        owner = atomic_load(&pool->pid);
    }
}

/* With the turn held: start the workers the first time a loop can use them. */
static km_status start_workers(km_ctx *ctx, km_error *err) {
    km__pool *pool = ctx->pool;
    while (pool->n_started < ctx->n_threads - 1) {
        int i = pool->n_started;
        pool->args[i] = (worker_arg){ctx, i + 1};
        int code = pthread_create(&pool->threads[i], NULL, worker_main, &pool->args[i]);
        if (code != 0) {
            return km_error_set_errno(err, code, __FILE__, __func__, __LINE__,
                                      "cannot start worker thread %d of %d", i + 1,
                                      ctx->n_threads - 1);
        }
        pool->n_started++;
    }
    return KM_OK;
}

/* Tell the workers that there is something new. */
static void wake_workers(km__pool *pool) {
    atomic_fetch_add(&pool->epoch, 1);
    if (atomic_load(&pool->asleep) > 0) {
        (void)pthread_mutex_lock(&pool->lock);
        (void)pthread_cond_broadcast(&pool->wake);
        (void)pthread_mutex_unlock(&pool->lock);
    }
}

static void open_job(km__pool *pool) {
    atomic_store(&pool->entry, OPEN);
    wake_workers(pool);
}

static void close_job(km__pool *pool) {
    atomic_fetch_and(&pool->entry, ~OPEN);
    for (int turn = 0; turn < pool->spin_turns && atomic_load(&pool->entry) > 0; turn++) {
        pause_cpu();
    }
    if (atomic_load(&pool->entry) == 0) {
        return;
    }
    (void)pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->entry) > 0) {
        (void)pthread_cond_wait(&pool->finished, &pool->lock);
    }
    (void)pthread_mutex_unlock(&pool->lock);
}

static void set_job(job *work, const job *shape) {
    work->fn = shape->fn;
    work->payload = shape->payload;
    work->n = shape->n;
    work->grain = shape->grain;
    work->n_ranges = shape->n_ranges;
    atomic_store(&work->next, 0);
    atomic_store(&work->failed, shape->n_ranges);
    work->status = KM_OK;
    work->error = (km_error)KM_ERROR_INIT;
}

/* Run every range on the calling thread, in order. */
static km_status run_in_place(km_ctx *ctx, const job *work, int worker, km_error *err) {
    for (int64_t range = 0; range < work->n_ranges; range++) {
        km_error error = KM_ERROR_INIT;
        km_status status = run_range(ctx, work, range, worker, &error);
        if (status != KM_OK) {
            if (err != NULL && err->code == KM_OK) {
                *err = error;
            }
            return status;
        }
    }
    return KM_OK;
}

/* With the turn held. */
static km_status run_with_workers(km_ctx *ctx, const job *shape, km_error *err) {
    km__pool *pool = ctx->pool;
    KM_TRY(start_workers(ctx, err));
    set_job(&pool->job, shape);
    open_job(pool);
    run_job(ctx, &pool->job, 0);
    close_job(pool);
    if (pool->job.status != KM_OK && err != NULL && err->code == KM_OK) {
        *err = pool->job.error;
    }
    return pool->job.status;
}

km_status km_parallel_for(km_ctx *ctx, int64_t n, int64_t grain, km_range_fn fn, void *payload,
                          km_error *err) {
    if (n < 0 || grain < 1) {
        return KM_SET(err, KM_EINVAL, "a loop of %lld in ranges of %lld", (long long)n,
                      (long long)grain);
    }
    job shape = {.fn = fn, .payload = payload, .n = n, .grain = grain};
    shape.n_ranges = n / grain + (n % grain != 0);
    if (current.ctx == ctx) {
        return run_in_place(ctx, &shape, current.worker, err);
    }
    KM_TRY(km__poll(err));
    km__pool *pool = ctx->pool;
    renew_after_fork(pool);
    (void)pthread_mutex_lock(&pool->turn);
    km_status status;
    if (shape.n_ranges <= 1 || ctx->n_threads == 1) {
        inside before = current;
        current = (inside){ctx, 0};
        status = run_in_place(ctx, &shape, 0, err);
        current = before;
    } else {
        status = run_with_workers(ctx, &shape, err);
    }
    if (status == KM_ECANCELLED) {
        atomic_store(&ctx->cancelled, false);
    }
    (void)pthread_mutex_unlock(&pool->turn);
    return status;
}

km_status km__pool_new(km__pool **out, km_ctx *ctx, km_error *err) {
    void *block = NULL, *threads = NULL, *args = NULL;
    km_status status = KM_OK;
    KM_GO(km_alloc_array(&block, ctx, 1, sizeof(km__pool), err));
    KM_GO(km_alloc_array(&threads, ctx, ctx->n_threads, sizeof(pthread_t), err));
    KM_GO(km_alloc_array(&args, ctx, ctx->n_threads, sizeof(worker_arg), err));
    km__pool *pool = block;
    pool->threads = threads;
    pool->args = args;
    /* Spinning pays only when every thread can have a CPU to itself. */
    pool->spin_turns = ctx->n_threads <= km__cpu_count() ? SPIN_TURNS : 0;
    init_primitives(pool);
    atomic_store(&pool->pid, (int)getpid());
    *out = pool;
done:
    if (status != KM_OK) {
        km_free(ctx, block);
        km_free(ctx, threads);
        km_free(ctx, args);
    }
    return status;
}

void km__pool_free(km__pool *pool, km_ctx *ctx) {
    if (pool == NULL) {
        return;
    }
    renew_after_fork(pool);
    atomic_store(&pool->stop, true);
    wake_workers(pool);
    for (int i = 0; i < pool->n_started; i++) {
        (void)pthread_join(pool->threads[i], NULL);
    }
    (void)pthread_cond_destroy(&pool->finished);
    (void)pthread_cond_destroy(&pool->wake);
    (void)pthread_mutex_destroy(&pool->lock);
    (void)pthread_mutex_destroy(&pool->turn);
    km_free(ctx, pool->threads);
    km_free(ctx, pool->args);
    km_free(ctx, pool);
}
