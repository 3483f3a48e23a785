/* tick.h: long work without the GIL: progress, Ctrl-C. */
#ifndef KM_PY_TICK_H
#define KM_PY_TICK_H

#include "errors.h"
#include "km/ctx.h"

/* For libkm functions that take a tick callback, called on the thread that called km_py_tick_begin:
 *
 *     km_py_tick tick;
 *     km_py_tick_begin(&tick, progress);      (releases the GIL)
 *     status = km_x_run(..., km_py_tick_call, &tick, &err);
 *     km_py_tick_end(&tick);                  (takes it back)
 *
 * Signals are checked every 50 ms, and at each tick progress(done, total) is called, if it is not
 * NULL. An exception from either stops the work with KM_ECALLBACK and stays set: km_py_raise leaves
 * it. */
typedef struct km_py_tick {
    PyObject *progress; /* borrowed */
    PyThreadState *thread;
} km_py_tick;
void km_py_tick_begin(km_py_tick *tick, PyObject *progress);
void km_py_tick_end(km_py_tick *tick);
km_status km_py_tick_call(void *payload, int64_t done, int64_t total);

/* For long libkm functions without a tick: run `work` on a thread of its own while this one, the
 * only one that may run signal handlers, waits without the GIL and checks signals every 50 ms.
 * Ctrl-C cancels the context's work. True on success; false with an exception set, whose
 * filename is `path` (NULL: none). `work` must not touch Python. */
typedef km_status (*km_py_work)(void *payload, km_error *err);
bool km_py_run(const km_errors *errors, km_ctx *ctx, km_py_work work, void *payload,
               PyObject *path);

#endif
