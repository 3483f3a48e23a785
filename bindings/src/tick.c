/* tick.c: how signals and progress reach Python while libkm works without the GIL. */
#include "tick.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "base/base.h"

#define POLL_NS 50000000L

/* ---- work with a tick callback ---- */

/* One piece of work may take seconds; signals are looked at between its loops too. */
static km_status poll_signals(void *payload) {
    km_py_tick *tick = payload;
    PyEval_RestoreThread(tick->thread);
    const bool failed = PyErr_Occurred() != NULL || PyErr_CheckSignals() < 0;
    tick->thread = PyEval_SaveThread();
    return failed ? KM_ECALLBACK : KM_OK;
}

void km_py_tick_begin(km_py_tick *tick, PyObject *progress) {
    tick->progress = progress;
    tick->thread = PyEval_SaveThread();
    km_poll_set(poll_signals, tick);
}

void km_py_tick_end(km_py_tick *tick) {
    km_poll_set(NULL, NULL);
    PyEval_RestoreThread(tick->thread);
}

km_status km_py_tick_call(void *payload, int64_t done, int64_t total) {
    km_py_tick *tick = payload;
    PyEval_RestoreThread(tick->thread);
    bool failed = PyErr_Occurred() != NULL || PyErr_CheckSignals() < 0;
    if (!failed && tick->progress != NULL) {
        PyObject *result =
            PyObject_CallFunction(tick->progress, "LL", (long long)done, (long long)total);
        failed = result == NULL;
        Py_XDECREF(result);
    }
    tick->thread = PyEval_SaveThread();
    return failed ? KM_ECALLBACK : KM_OK;
}

/* ---- work without one ---- */

typedef struct job {
    km_ctx *ctx;
    km_py_work work;
    void *payload;
    km_error error;
    km_status status;
    bool done;
    pthread_mutex_t mutex;
    pthread_cond_t finished;
} job;

static void *run_job(void *argument) {
    job *self = argument;
    km_tick start; /* forgets a cancellation that came when no work was there to stop */
    km_tick_init(&start, self->ctx, NULL, NULL, 0);
    km_status status = self->work(self->payload, &self->error);
    pthread_mutex_lock(&self->mutex);
    self->status = status;
    self->done = true;
    pthread_cond_signal(&self->finished);
    pthread_mutex_unlock(&self->mutex);
    return NULL;
}

/* Wait for the end or one poll interval; true at the end. */
static bool wait_once(job *self) {
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += POLL_NS;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&self->mutex);
    int rc = 0;
    while (!self->done && rc == 0) {
        rc = pthread_cond_timedwait(&self->finished, &self->mutex, &until);
    }
    bool done = self->done;
    pthread_mutex_unlock(&self->mutex);
    return done;
}

/* Wait while polling signals. After one has raised, the context is cancelled at each poll until the
 * work ends: a single cancel could fall between two pieces of work and be forgotten. */
static void wait_for(job *self) {
    bool done = false;
    while (!done) {
        PyThreadState *thread = PyEval_SaveThread();
        done = wait_once(self);
        PyEval_RestoreThread(thread);
        if (!done && (PyErr_Occurred() != NULL || PyErr_CheckSignals() < 0)) {
            km_ctx_cancel(self->ctx);
        }
    }
}

bool km_py_run(const km_errors *errors, km_ctx *ctx, km_py_work work, void *payload,
               PyObject *path) {
    job self = {ctx,
                work,
                payload,
                KM_ERROR_INIT,
                KM_OK,
                false,
                PTHREAD_MUTEX_INITIALIZER,
                PTHREAD_COND_INITIALIZER};
    pthread_t thread;
    int rc = pthread_create(&thread, NULL, run_job, &self);
    if (rc != 0) {
        errno = rc;
        PyErr_SetFromErrno(PyExc_OSError);
        return false;
    }
    wait_for(&self);
    (void)pthread_join(thread, NULL);
    if (PyErr_Occurred() != NULL) {
        km_ctx_resume(ctx); /* the last cancel may have come after the work's end */
    }
    pthread_mutex_destroy(&self.mutex);
    pthread_cond_destroy(&self.finished);
    if (self.status != KM_OK) {
        km_py_raise_path(errors, &self.error, path);
    }
    return self.status == KM_OK && !PyErr_Occurred();
}
