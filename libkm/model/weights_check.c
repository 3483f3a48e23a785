/* weights_check.c: weights that are used where they lie in the file are checked for infinities and
 * NaN when a model first runs, so that opening a file reads none of them. A quantised block is
 * finite when the half-precision numbers it is scaled by are. */
#include <inttypes.h>
#include <string.h>

#include "model/parameters.h"
#include "model/weights_private.h"
#include "tensor/kernels.h"

/* Bytes of weights one worker checks at a time, about. */
#define PIECE_BYTES ((int64_t)1 << 20)

/* Where a block has numbers that may be infinite or NaN: `count` of 16 bits from `offset` on. */
typedef struct scales {
    int offset, count;
} scales;

static const scales SCALES[KM_DTYPE_COUNT] = {
    [KM_F16] = {0, 1},  [KM_Q8_0] = {0, 1}, [KM_Q4_0] = {0, 1},
    [KM_Q4_1] = {0, 2}, [KM_Q5_0] = {0, 1}, [KM_Q5_1] = {0, 2},
    [KM_Q4_K] = {0, 2}, [KM_Q5_K] = {0, 2}, [KM_Q6_K] = {208, 1},
};

typedef struct piece {
    const km_tensor_info *info;
    int64_t begin, end; /* blocks */
} piece;

typedef struct checking {
    const km_ctx *ctx;
    piece *pieces;
    int64_t n;
} checking;

/* No 16-bit number at p, p + stride, ... has an exponent of all ones. */
static bool halves_finite(const unsigned char *p, int64_t n, int64_t stride, unsigned exponent) {
    unsigned bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, p + i * stride, sizeof(bits));
        bad |= (bits & exponent) == exponent;
    }
    return bad == 0;
}

static bool piece_finite(const km_ctx *ctx, const piece *part) {
    const km_dtype_traits *traits = km_dtype_get(part->info->dtype);
    const unsigned char *data =
        (const unsigned char *)part->info->data + part->begin * traits->block_bytes;
    const int64_t n = part->end - part->begin;
    if (part->info->dtype == KM_F32) {
        return km_ctx_kernels(ctx)->all_finite((const float *)(const void *)data, n);
    }
    if (part->info->dtype == KM_BF16) {
        return halves_finite(data, n, 2, 0x7f80);
    }
    const scales where = SCALES[part->info->dtype];
    bool finite = true;
    for (int i = 0; i < where.count; i++) {
        finite =
            finite && halves_finite(data + where.offset + 2 * i, n, traits->block_bytes, 0x7c00);
    }
    return finite;
}

static km_status check_pieces(void *payload, int64_t begin, int64_t end, int worker,
                              km_error *err) {
    (void)worker;
    const checking *work = payload;
    for (int64_t i = begin; i < end; i++) {
        const piece *part = &work->pieces[i];
        const int64_t block = km_dtype_get(part->info->dtype)->block_elements;
        if (!piece_finite(work->ctx, part)) {
            return KM_SET(err, KM_ENUMERIC,
                          "tensor '%s': a weight among elements %" PRId64 " to %" PRId64
                          " is not finite",
                          part->info->name, part->begin * block, part->end * block - 1);
        }
    }
    return KM_OK;
}

/* With out NULL only counts. */
static int64_t cut(piece *out, const km_weights *weights) {
    int64_t n = 0;
    for (int64_t i = 0; i < weights->n_maps; i++) {
        const km_tensor_info *info = weights->maps[i];
        const int64_t block_bytes = km_dtype_get(info->dtype)->block_bytes;
        const int64_t n_blocks = (int64_t)info->nbytes / block_bytes;
        const int64_t each = PIECE_BYTES / block_bytes;
        for (int64_t begin = 0; begin < n_blocks; begin += each) {
            if (out != NULL) {
                out[n] = (piece){info, begin, n_blocks - begin > each ? begin + each : n_blocks};
            }
            n++;
        }
    }
    return n;
}

static km_status check_maps(const km_model *model, km_error *err) {
    checking work = {model->ctx, NULL, cut(NULL, &model->weights)};
    km_status status = KM_OK;
    if (model->container != NULL) {
        KM_GO(km_container_check(model->container, err));
    }
    KM_GO(km_alloc_array((void **)&work.pieces, model->ctx, work.n, sizeof(*work.pieces), err));
    (void)cut(work.pieces, &model->weights);
    KM_GO(km_parallel_for(model->ctx, work.n, 1, check_pieces, &work, err));
done:
    if (status != KM_OK && model->path != NULL) {
        km_error_prefix(err, "%s", model->path);
    }
    km_free(model->ctx, work.pieces);
    return status;
}

/* Two threads that come first together both check; either finds the same. */
km_status km__weights_check(const km_model *model, km_error *err) {
    km_model *self = (km_model *)(uintptr_t)model; /* what is remembered changes nothing it holds */
    if (atomic_load(&self->weights.checked)) {
        return KM_OK;
    }
    if (model->is_trainable) {
        KM_TRY(km__weights_check(model->origin, err));
        KM_TRY(km__trainable_check(model, err));
    }
    if (model->weights.n_maps > 0) {
        KM_TRY(check_maps(model, err));
    }
    atomic_store(&self->weights.checked, true);
    return KM_OK;
}
