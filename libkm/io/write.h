/* write.h: model files written so that a reader never sees half of one: a temporary file beside the
 * target, fsync, rename. Private to libkm. */
#ifndef KM_IO_WRITE_H
#define KM_IO_WRITE_H

#include "io/io.h"

/* ---- a file that appears when it is whole ---- */

typedef struct km_output km_output;
/* Begin a file that will stand at `path`; KM_EIO names it. */
KM_NODISCARD km_status km_output_open(km_output **out, km_ctx *ctx, const char *path,
                                      km_error *err);
KM_NODISCARD km_status km_output_write(km_output *output, const void *data, size_t n,
                                       km_error *err);
/* Zero bytes up to a multiple of `alignment`. */
KM_NODISCARD km_status km_output_pad(km_output *output, size_t alignment, km_error *err);
/* Flush, fsync, rename. The output is gone after it, whatever it returns. */
KM_NODISCARD km_status km_output_commit(km_output *output, km_error *err);
/* Remove what was written; NULL is a no-op. */
void km_output_abort(km_output *output);
/* Begin a file that has no name and lies in memory. */
KM_NODISCARD km_status km_output_open_memory(km_output **out, km_ctx *ctx, km_error *err);
/* What was written to memory, as a map to be closed with km_map_close. The output is gone after it,
 * whatever it returns. */
KM_NODISCARD km_status km_output_map(km_map *out, km_output *output, km_error *err);

/* ---- tensors on their way out ---- */

/* Which row of the source becomes row r: the same; llama's q and k, whose rotary pairs are
 * neighbours in GGUF and half a head apart in Hugging Face's files; GPT-NeoX's fused q, k and v,
 * which Hugging Face writes head by head. */
typedef enum km_row_order {
    KM_ROWS_SAME = 0,
    KM_ROWS_TO_NEIGHBOURS,
    KM_ROWS_TO_PARTS
} km_row_order;

typedef struct km_write_tensor {
    const char *name;
    const km_tensor_info *source; /* (rows, cols), or a vector, which is one row */
    km_dtype dtype;               /* as it is written: F32, F16, BF16, Q8_0, or the source's own */
    km_row_order order;
    int32_t heads;  /* of `order` */
    bool transpose; /* write (cols, rows) */
    float add;      /* to every element */
} km_write_tensor;

/* Whether km writes a type other than by copying. */
bool km_dtype_writable(km_dtype dtype);
/* n elements (whole blocks) as `dtype`, rounded to nearest even as the `gguf` package rounds.
 * KM_ENUMERIC for NaN or infinity, KM_ERANGE where F16 overflows; *at tells which element. */
KM_NODISCARD km_status km_dtype_from_f32(void *out, km_dtype dtype, const float *x, int64_t n,
                                         int64_t *at, km_error *err);
/* Dimensions as written, row-major, and their bytes. */
void km_write_dims(int64_t dims[KM_MAX_DIMS], const km_write_tensor *tensor);
size_t km_write_bytes(const km_write_tensor *tensor);
/* Append one tensor's data, converted in parallel piece by piece. */
KM_NODISCARD km_status km_write_data(km_output *output, km_ctx *ctx, const km_write_tensor *tensor,
                                     km_tick *tick, km_error *err);

/* ---- GGUF v3 ---- */

/* One metadata entry; types are GGUF's numbers. `data` is as the file holds it: for a string its
 * bytes, for an array the elements one after the other. */
typedef struct km_gguf_pair {
    const char *key;
    uint32_t type, element; /* element: of an array */
    int64_t n;              /* elements of an array */
    const void *data;
    size_t nbytes;
} km_gguf_pair;
/* Entry `index` of a parsed file; borrowed. */
km_gguf_pair km_gguf_pair_at(const km_gguf *gguf, int64_t index);

/* Header, entries and tensors into an output. */
KM_NODISCARD km_status km_gguf_write_to(km_output *output, km_ctx *ctx, const km_gguf_pair *pairs,
                                        int64_t n_pairs, const km_write_tensor *tensors,
                                        int64_t n_tensors, km_error *err);
/* Write a whole file: header, entries, tensors. */
KM_NODISCARD km_status km_gguf_write(const char *path, km_ctx *ctx, const km_gguf_pair *pairs,
                                     int64_t n_pairs, const km_write_tensor *tensors,
                                     int64_t n_tensors, km_error *err);

/* ---- safetensors ---- */

/* Header, with {"format": "pt"} as its metadata, and tensors into an output. F32, F16 and BF16
 * only. */
KM_NODISCARD km_status km_safetensors_write_to(km_output *output, km_ctx *ctx,
                                               const km_write_tensor *tensors, int64_t n_tensors,
                                               km_error *err);
/* The same as a whole file. */
KM_NODISCARD km_status km_safetensors_write(const char *path, km_ctx *ctx,
                                            const km_write_tensor *tensors, int64_t n_tensors,
                                            km_error *err);

#endif
