/* io_private.h: what the files of libkm/io share: opened GGUF objects and sorted tensor names. */
#ifndef KM_IO_IO_PRIVATE_H
#define KM_IO_IO_PRIVATE_H

#include "io/io.h"

/* Upper bounds on what a file may announce; each is also compared with the bytes that are left. */
#define KM_MAX_TENSORS ((int64_t)1000000)
#define KM_MAX_KEYS ((int64_t)1000000)
#define KM_MAX_KEY_BYTES ((size_t)65535)
#define KM_MAX_NAME_BYTES ((size_t)255)
#define KM_MAX_SHARDS 512

typedef enum km_gguf_type {
    KM_GGUF_U8 = 0,
    KM_GGUF_I8,
    KM_GGUF_U16,
    KM_GGUF_I16,
    KM_GGUF_U32,
    KM_GGUF_I32,
    KM_GGUF_F32,
    KM_GGUF_BOOL,
    KM_GGUF_STRING,
    KM_GGUF_ARRAY,
    KM_GGUF_U64,
    KM_GGUF_I64,
    KM_GGUF_F64,
    KM_GGUF_TYPE_COUNT
} km_gguf_type;

/* One metadata entry. For an array, `type` is KM_GGUF_ARRAY, `element` the type of its elements and
 * n their number; for a string n is its length in bytes; else n is 1. */
typedef struct km_gguf_entry {
    const char *key; /* NUL-terminated, in km_gguf.names */
    size_t key_length;
    km_gguf_type type, element;
    int64_t n;
    const unsigned char *data; /* the value's bytes inside the file, already checked */
    size_t offset;             /* of the entry, for messages */
} km_gguf_entry;

struct km_gguf {
    km_ctx *ctx;
    km_gguf_entry *entries; /* (n_entries) in file order */
    km_gguf_entry **by_key; /* (n_entries) sorted by key */
    int64_t n_entries;
    km_tensor_info *tensors; /* (n_tensors) in file order */
    const km_tensor_info **by_name;
    int64_t n_tensors;
    char *names; /* every key and tensor name, NUL-terminated */
};

/* Bytes of one element; 0 for strings and arrays. */
size_t km__gguf_type_size(km_gguf_type type);
const char *km__gguf_type_name(km_gguf_type type);
/* NULL when the key is absent. */
const km_gguf_entry *km__gguf_find_entry(const km_gguf *gguf, const char *key);

/* Sort pointers to tensors by name, O(n log n). Gives the first name that occurs twice, or NULL. */
const char *km__tensors_sort(const km_tensor_info **by_name, int64_t n);
const km_tensor_info *km__tensors_find(const km_tensor_info *const *by_name, int64_t n,
                                       const char *name);

/* Bytes of n_elements in `dtype`; false when the last dimension is not whole blocks or on
 * overflow. dims is row-major. */
bool km__tensor_bytes(size_t *out, km_dtype dtype, const int64_t *dims, int n_dims);

/* "F32, F16, ...": what km reads, for messages. */
#define KM_SUPPORTED_TYPES "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K"

#endif
