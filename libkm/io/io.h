/* io.h: opened model containers (GGUF file or safetensors files) as named tensors over read-only
 * memory maps. Private to libkm. Everything in a file is untrusted: each count, length and offset
 * is compared with what remains before it is used, products are checked for overflow, ranges for
 * overlap, names for uniqueness and UTF-8. */
#ifndef KM_IO_IO_H
#define KM_IO_IO_H

#include "base/base.h"
#include "tensor/dtype.h"

#define KM_MAX_DIMS 4

/* For "%.*s" in messages: how much of n bytes of UTF-8 to show, at most 64, whole characters. */
int km__shown(const char *text, size_t n);
#define KM_SHOWN(text) km__shown((text), strlen(text)), (text)

typedef struct km_tensor_info {
    const char *name; /* NUL-terminated, borrowed from the container */
    km_dtype dtype;
    int n_dims;
    int64_t dims[KM_MAX_DIMS]; /* row-major, outermost first (GGUF's order reversed) */
    const void *data;          /* inside the map */
    size_t nbytes;
} km_tensor_info;

/* ---- read-only file maps ---- */
typedef struct km_map {
    const unsigned char *data;
    size_t size;
    int fd;
} km_map;
/* Regular files only, without ever waiting for a FIFO. KM_ENOTFOUND (os_errno set), KM_EINVAL for a
 * folder or device, KM_EIO; messages begin with the path. An empty file has size 0. */
KM_NODISCARD km_status km_map_open(km_map *out, const char *path, km_error *err);
/* KM_EFORMAT when the file has become shorter than the map: call before a pass over its data. */
KM_NODISCARD km_status km_map_check(const km_map *map, km_error *err);
void km_map_close(km_map *map);

/* ---- GGUF v2/v3 ---- */
typedef struct km_gguf km_gguf;
/* Parse bytes that outlive the object (a map, or a fuzzer's buffer). */
KM_NODISCARD km_status km_gguf_parse(km_gguf **out, km_ctx *ctx, const unsigned char *data,
                                     size_t size, km_error *err);
void km_gguf_free(km_gguf *gguf);
int64_t km_gguf_n_tensors(const km_gguf *gguf);
const km_tensor_info *km_gguf_tensor(const km_gguf *gguf, int64_t index);
const km_tensor_info *km_gguf_find_tensor(const km_gguf *gguf, const char *name); /* NULL: none */
int64_t km_gguf_n_keys(const km_gguf *gguf);
const char *km_gguf_key(const km_gguf *gguf, int64_t index);
/* Typed metadata. KM_EFORMAT when of another type (integers convert when they fit). *found may be
 * NULL: then the file is broken without the key, KM_EFORMAT too; else *found tells. */
KM_NODISCARD km_status km_gguf_get_int(const km_gguf *gguf, const char *key, int64_t *out,
                                       bool *found, km_error *err);
KM_NODISCARD km_status km_gguf_get_double(const km_gguf *gguf, const char *key, double *out,
                                          bool *found, km_error *err);
KM_NODISCARD km_status km_gguf_get_bool(const km_gguf *gguf, const char *key, bool *out,
                                        bool *found, km_error *err);
/* Borrowed bytes inside the map, not NUL-terminated. */
KM_NODISCARD km_status km_gguf_get_string(const km_gguf *gguf, const char *key, const char **out,
                                          size_t *n, bool *found, km_error *err);
/* Number of elements of an array key (0 and *found=false when absent). */
KM_NODISCARD km_status km_gguf_array_length(const km_gguf *gguf, const char *key, int64_t *out,
                                            bool *found, km_error *err);
/* Copy out a whole array; the caller's buffer has km_gguf_array_length elements. As integers, false
 * is 0 and true 1. */
typedef struct km_gguf_string {
    const char *data;
    size_t n;
} km_gguf_string;
KM_NODISCARD km_status km_gguf_get_strings(const km_gguf *gguf, const char *key,
                                           km_gguf_string *out, int64_t n, km_error *err);
KM_NODISCARD km_status km_gguf_get_floats(const km_gguf *gguf, const char *key, float *out,
                                          int64_t n, km_error *err);
KM_NODISCARD km_status km_gguf_get_ints(const km_gguf *gguf, const char *key, int64_t *out,
                                        int64_t n, km_error *err);

/* ---- safetensors (one file's bytes) ---- */
typedef struct km_safetensors km_safetensors;
KM_NODISCARD km_status km_safetensors_parse(km_safetensors **out, km_ctx *ctx,
                                            const unsigned char *data, size_t size, km_error *err);
void km_safetensors_free(km_safetensors *st);
int64_t km_safetensors_n_tensors(const km_safetensors *st);
const km_tensor_info *km_safetensors_tensor(const km_safetensors *st, int64_t index);
const km_tensor_info *km_safetensors_find(const km_safetensors *st, const char *name);

/* ---- a model container, whichever it is ---- */
typedef struct km_container km_container;
/* Open a .gguf file or a folder with config.json and model.safetensors (or its index.json with
 * shards). Errors name the file and what is missing. */
KM_NODISCARD km_status km_container_open(km_container **out, km_ctx *ctx, const char *path,
                                         km_error *err);
void km_container_close(km_container *container);
/* A container that lies in memory: a GGUF file, or (gguf NULL) config.json and model.safetensors
 * beside the tokenizer files of the folder `path`. It takes the maps, also on failure. */
KM_NODISCARD km_status km_container_from_maps(km_container **out, km_ctx *ctx, const char *path,
                                              km_map *gguf, km_map *config, km_map *weights,
                                              km_error *err);
/* The same container with other values in some tensors, which become F32: `replaced` names tensors
 * of the base, and their `data` are floats, copied. Everything else is the base's, which has to
 * outlive it. KM_ENOTFOUND names a tensor the base does not have, KM_EINVAL one given twice. */
KM_NODISCARD km_status km_container_overlay(km_container **out, const km_container *base,
                                            const km_tensor_info *replaced, int64_t n,
                                            km_error *err);
/* Whether a tensor is one an overlay, or an overlay under it, has replaced. */
bool km_container_is_replaced(const km_container *container, const char *name);
/* km_map_check on every mapped file; the error names the file. */
KM_NODISCARD km_status km_container_check(const km_container *container, km_error *err);
const char *km_container_path(const km_container *container);
/* NULL for a Hugging Face folder. */
const km_gguf *km_container_gguf(const km_container *container);
/* Bytes of config.json / tokenizer.json / tokenizer_config.json; n = 0 when absent or GGUF. */
const char *km_container_config_json(const km_container *container, size_t *n);
const char *km_container_tokenizer_json(const km_container *container, size_t *n);
const char *km_container_tokenizer_config_json(const km_container *container, size_t *n);
int64_t km_container_n_tensors(const km_container *container);
const km_tensor_info *km_container_tensor(const km_container *container, int64_t index);
const km_tensor_info *km_container_find(const km_container *container, const char *name);

#endif
