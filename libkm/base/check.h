/* check.h: the only control-flow macros of km. One label `done:` a function; free(NULL) is fine. */
#ifndef KM_BASE_CHECK_H
#define KM_BASE_CHECK_H

#include "km/error.h"

/* Set *err and give the code: `return KM_SET(err, KM_EINVAL, "...")`. The code is repeated so that
 * the compiler sees that the failing path is taken and outputs need not be initialised. */
#define KM_SET(err, code, ...)                                                                     \
    ((void)km_error_set((err), (code), __FILE__, __func__, __LINE__, __VA_ARGS__), (code))

/* Return the failing status: only before anything is owned. */
#define KM_TRY(expr)                                                                               \
    do {                                                                                           \
        km_status try_status = (expr);                                                             \
        if (try_status != KM_OK) {                                                                 \
            return try_status;                                                                     \
        }                                                                                          \
    } while (0)

/* Store the failing status in `status` and go to `done`. */
#define KM_GO(expr)                                                                                \
    do {                                                                                           \
        status = (expr);                                                                           \
        if (status != KM_OK) {                                                                     \
            goto done;                                                                             \
        }                                                                                          \
    } while (0)

/* Set the error, store the code in `status` and go to `done`. */
#define KM_FAIL(err, code, ...)                                                                    \
    do {                                                                                           \
        status = KM_SET((err), (code), __VA_ARGS__);                                               \
        goto done;                                                                                 \
    } while (0)

#endif
