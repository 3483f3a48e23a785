/* encode.c: float32 to the types km writes, and tensors on their way into a file.
 *
 * The rounding of each type is what the `gguf` package does, bit for bit: F16 and BF16 to nearest,
 * ties to even; Q8_0 with d = max|x| / 127, x * (1 / d) rounded half away from zero, d kept as F16.
 */
#include "io/write.h"

#include <math.h>
#include <string.h>

#define PIECE_ELEMENTS ((int64_t)1 << 20)
#define Q8_BLOCK 32

bool km_dtype_writable(km_dtype dtype) {
    return dtype == KM_F32 || dtype == KM_F16 || dtype == KM_BF16 || dtype == KM_Q8_0;
}

/* ---- rounding ---- */

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Finite x to nearest even; beyond the range it becomes infinity. */
static uint16_t half_of(float x) {
    uint32_t bits = bits_of(x);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude >= 0x47800000u) { /* 65536 and more */
        return (uint16_t)(sign | 0x7C00u);
    }
    if (magnitude < 0x38800000u) { /* a subnormal half: a multiple of 2^-24 */
        float scaled;
        memcpy(&scaled, &magnitude, sizeof scaled);
        return (uint16_t)(sign | (uint16_t)nearbyintf(scaled * 0x1p24f));
    }
    uint32_t rounded = magnitude + 0xFFFu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | (uint16_t)((rounded - 0x38000000u) >> 13));
}

static uint16_t bfloat_of(float x) {
    uint32_t bits = bits_of(x);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

static void q8_block(unsigned char *out, const float *x) {
    float largest = 0.0f;
    for (int i = 0; i < Q8_BLOCK; i++) {
        largest = fmaxf(largest, fabsf(x[i]));
    }
    float d = largest / 127.0f;
    float inverse = d == 0.0f ? 0.0f : 1.0f / d;
    uint16_t half = half_of(d);
    memcpy(out, &half, sizeof half);
    for (int i = 0; i < Q8_BLOCK; i++) {
        float y = x[i] * inverse;
        float a = fabsf(y);
        float whole = floorf(a);
        float rounded = whole + floorf(2.0f * (a - whole));
        out[2 + i] = (unsigned char)(int8_t)(y < 0.0f ? -rounded : rounded);
    }
}

static void encode(unsigned char *out, km_dtype dtype, const float *x, int64_t n) {
    if (dtype == KM_F32) {
        memcpy(out, x, (size_t)n * sizeof *x);
    } else if (dtype == KM_Q8_0) {
        for (int64_t i = 0; i < n / Q8_BLOCK; i++) {
            q8_block(out + 34 * i, x + Q8_BLOCK * i);
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            uint16_t half = dtype == KM_F16 ? half_of(x[i]) : bfloat_of(x[i]);
            memcpy(out + 2 * i, &half, sizeof half);
        }
    }
}

/* Beyond 65504 + 16 a half would be infinite; a bfloat beyond the largest finite one. */
static km_status check_range(km_dtype dtype, const float *x, int64_t n, int64_t *at,
                             km_error *err) {
    const float limit = dtype == KM_F16    ? 65519.996f
                        : dtype == KM_BF16 ? 0x1.fefffep127f
                        : dtype == KM_Q8_0 ? 65519.996f * 127.0f
                                           : HUGE_VALF;
    for (int64_t i = 0; i < n; i++) {
        *at = i;
        if (!isfinite(x[i])) {
            return KM_SET(err, KM_ENUMERIC, "element %lld is no finite number", (long long)i);
        }
        if (fabsf(x[i]) > limit) {
            return KM_SET(err, KM_ERANGE, "element %lld is %g, beyond what %s holds: use F32",
                          (long long)i, (double)x[i], km_dtype_get(dtype)->name);
        }
    }
    return KM_OK;
}

km_status km_dtype_from_f32(void *out, km_dtype dtype, const float *x, int64_t n, int64_t *at,
                            km_error *err) {
    if (!km_dtype_writable(dtype) || n % km_dtype_get(dtype)->block_elements != 0) {
        return KM_SET(err, KM_EUNSUPPORTED, "%lld elements cannot be written as %s", (long long)n,
                      km_dtype_get(dtype)->name);
    }
    KM_TRY(check_range(dtype, x, n, at, err));
    encode(out, dtype, x, n);
    return KM_OK;
}

/* ---- tensors ---- */

static int64_t n_elements(const km_tensor_info *info) {
    int64_t n = 1;
    for (int i = 0; i < info->n_dims; i++) {
        n *= info->dims[i];
    }
    return n;
}

static int64_t n_cols(const km_tensor_info *info) {
    return info->n_dims > 0 ? info->dims[info->n_dims - 1] : 1;
}

void km_write_dims(int64_t dims[KM_MAX_DIMS], const km_write_tensor *tensor) {
    const km_tensor_info *info = tensor->source;
    for (int i = 0; i < info->n_dims; i++) {
        dims[i] = info->dims[tensor->transpose ? info->n_dims - 1 - i : i];
    }
}

size_t km_write_bytes(const km_write_tensor *tensor) {
    const km_dtype_traits *traits = km_dtype_get(tensor->dtype);
    return (size_t)(n_elements(tensor->source) / traits->block_elements) *
           (size_t)traits->block_bytes;
}

static bool is_copy(const km_write_tensor *t) {
    return t->dtype == t->source->dtype && t->order == KM_ROWS_SAME && !t->transpose &&
           t->add == 0.0f;
}

/* Which of `rows` source rows becomes row r. */
static int64_t source_row(const km_write_tensor *t, int64_t rows, int64_t r) {
    const int64_t heads = t->heads;
    const int64_t width =
        heads > 0 ? rows / heads : 0; /* rows of a head; of NeoX all three parts */
    switch (t->order) {
    case KM_ROWS_SAME:
        return r;
    case KM_ROWS_TO_NEIGHBOURS:
        return r / width * width + r % 2 * (width / 2) + r % width / 2;
    case KM_ROWS_TO_PARTS: {
        const int64_t part = rows / 3;
        return r % part / (width / 3) * width + r / part * (width / 3) + r % (width / 3);
    }
    }
    return r;
}

typedef struct piece {
    const km_write_tensor *tensor;
    unsigned char *out;
    int64_t first, cols; /* row of `out` */
    int64_t in_rows, in_cols;
    float *room; /* (n_workers, cols) one row */
} piece;

/* Elements of a source row. */
static void read_row(float *out, const km_tensor_info *info, int64_t row, int64_t cols) {
    const km_dtype_traits *traits = km_dtype_get(info->dtype);
    size_t bytes = (size_t)(cols / traits->block_elements) * (size_t)traits->block_bytes;
    traits->to_f32(out, (const unsigned char *)info->data + (size_t)row * bytes, cols);
}

/* One row as it is written, in float32. Column `row` of the source when transposing, which reads
 * unquantised types alone. */
static void fill_row(float *out, const piece *work, int64_t row) {
    const km_write_tensor *t = work->tensor;
    if (t->transpose) {
        const km_dtype_traits *traits = km_dtype_get(t->source->dtype);
        const unsigned char *data = t->source->data;
        for (int64_t i = 0; i < work->in_rows; i++) {
            traits->to_f32(
                out + i, data + (size_t)(i * work->in_cols + row) * (size_t)traits->block_bytes, 1);
        }
    } else {
        read_row(out, t->source, source_row(t, work->in_rows, row), work->in_cols);
    }
    for (int64_t i = 0; t->add != 0.0f && i < work->cols; i++) {
        out[i] += t->add;
    }
}

static km_status convert_rows(void *payload, int64_t begin, int64_t end, int worker,
                              km_error *err) {
    const piece *work = payload;
    const km_dtype_traits *traits = km_dtype_get(work->tensor->dtype);
    size_t bytes = (size_t)(work->cols / traits->block_elements) * (size_t)traits->block_bytes;
    float *row = work->room + worker * work->cols;
    for (int64_t r = begin; r < end; r++) {
        int64_t at = 0;
        fill_row(row, work, work->first + r);
        km_status status = km_dtype_from_f32(work->out + (size_t)r * bytes, work->tensor->dtype,
                                             row, work->cols, &at, err);
        if (status != KM_OK) {
            km_error_prefix(err, "row %lld", (long long)(work->first + r));
            return status;
        }
    }
    return KM_OK;
}

static km_status write_converted(km_output *output, km_ctx *ctx, piece *work, int64_t rows,
                                 km_tick *tick, km_error *err) {
    km_status status = KM_OK;
    const km_dtype_traits *traits = km_dtype_get(work->tensor->dtype);
    const size_t bytes =
        (size_t)(work->cols / traits->block_elements) * (size_t)traits->block_bytes;
    const int64_t many = work->cols < PIECE_ELEMENTS ? PIECE_ELEMENTS / work->cols : 1;
    const int64_t grain = work->cols < 16384 ? 16384 / work->cols : 1;
    const int64_t most = rows < many ? rows : many;
    KM_GO(km_alloc_array((void **)&work->room, ctx, km_ctx_threads(ctx) * work->cols, sizeof(float),
                         err));
    KM_GO(km_alloc_array((void **)&work->out, ctx, most, bytes, err));
    for (work->first = 0; work->first < rows; work->first += most) {
        int64_t n = rows - work->first < most ? rows - work->first : most;
        KM_GO(km_parallel_for(ctx, n, grain, convert_rows, work, err));
        KM_GO(km_output_write(output, work->out, (size_t)n * bytes, err));
        KM_GO(km_tick_update(tick, 0, err));
    }
done:
    km_free(ctx, work->room);
    km_free(ctx, work->out);
    return status;
}

/* Bytes as they are, in pieces so that the work can be stopped. */
static km_status write_copied(km_output *output, const km_tensor_info *info, km_tick *tick,
                              km_error *err) {
    const size_t most = (size_t)PIECE_ELEMENTS * 4;
    for (size_t at = 0; at < info->nbytes; at += most) {
        size_t n = info->nbytes - at < most ? info->nbytes - at : most;
        KM_TRY(km_output_write(output, (const unsigned char *)info->data + at, n, err));
        KM_TRY(km_tick_update(tick, 0, err));
    }
    return KM_OK;
}

km_status km_write_data(km_output *output, km_ctx *ctx, const km_write_tensor *tensor,
                        km_tick *tick, km_error *err) {
    const km_tensor_info *info = tensor->source;
    km_status status;
    if (is_copy(tensor)) {
        status = write_copied(output, info, tick, err);
    } else {
        const bool permuted = info->n_dims == 1 && tensor->order != KM_ROWS_SAME;
        piece work = {.tensor = tensor, .in_cols = permuted ? 1 : n_cols(info)};
        if (n_elements(info) == 0) {
            return KM_OK;
        }
        work.in_rows = n_elements(info) / work.in_cols;
        work.cols = tensor->transpose ? work.in_rows : work.in_cols;
        int64_t rows = tensor->transpose ? work.in_cols : work.in_rows;
        status = write_converted(output, ctx, &work, rows, tick, err);
    }
    if (status != KM_OK) {
        km_error_prefix(err, "tensor '%.*s'", KM_SHOWN(tensor->name));
    }
    return status;
}
