/* km/error.h: status codes and the caller-owned error object every fallible call fills.
 *
 * A function that can fail returns a km_status and takes a `km_error *err` as its last parameter
 * (NULL allowed). The first failure wins: setting an error that is already set keeps the old one;
 * km_error_prefix() adds context on the way up ("model.gguf: tensor 'blk.3.ffn_up.weight': ...").
 */
#ifndef KM_ERROR_H
#define KM_ERROR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KM_API __attribute__((visibility("default")))
#define KM_NODISCARD __attribute__((warn_unused_result))
#define KM_PRINTF(fmt_index, first_arg) __attribute__((format(printf, fmt_index, first_arg)))

typedef enum km_status {
    KM_OK = 0,
    KM_ENOMEM,       /* allocation failed, or the estimate does not fit into memory */
    KM_EINVAL,       /* an argument is wrong */
    KM_ESHAPE,       /* an array has the wrong shape or dtype */
    KM_EIO,          /* the operating system refused; see os_errno */
    KM_EFORMAT,      /* a file's content breaks its format */
    KM_EUNSUPPORTED, /* valid, but not something this version of km handles */
    KM_ENOTFOUND,    /* no such file, tensor, fact, row */
    KM_ERANGE,       /* a number is outside its allowed range */
    KM_ENUMERIC,     /* NaN or infinity where a finite number is needed */
    KM_ESTATE,       /* the object is closed or busy */
    KM_ECANCELLED,   /* the user stopped the work */
    KM_ECALLBACK,    /* a callback failed and holds the reason */
    KM_EINTERNAL     /* a bug in km */
} km_status;

typedef struct km_error {
    km_status code;
    int os_errno; /* errno for KM_EIO, else 0 */
    int line;
    const char *file; /* static strings: where the error was set */
    const char *func;
    char message[512]; /* UTF-8, always NUL-terminated */
} km_error;

#define KM_ERROR_INIT {KM_OK, 0, 0, NULL, NULL, {0}}

/* The name of a status, such as "KM_EFORMAT". Static storage. */
KM_API const char *km_status_name(km_status code);

/* Forget an error so that the object can be used again. */
KM_API void km_error_clear(km_error *err);

/* Put "prefix: " before the message. No-op when err is NULL or not set. */
KM_API void km_error_prefix(km_error *err, const char *fmt, ...) KM_PRINTF(2, 3);

/* Set an error unless one is already set; returns code. Use the macros below inside km. */
KM_API km_status km_error_set(km_error *err, km_status code, const char *file, const char *func,
                              int line, const char *fmt, ...) KM_PRINTF(6, 7);

/* KM_EIO with errno's text appended, unless an error is already set; returns KM_EIO. */
KM_API km_status km_error_set_errno(km_error *err, int os_errno, const char *file, const char *func,
                                    int line, const char *fmt, ...) KM_PRINTF(6, 7);

#ifdef __cplusplus
}
#endif

#endif
