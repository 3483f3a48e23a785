/* weights_copy.c: weights that cannot be used as they lie in the file: vectors become float32,
 * transposed or fused matrices are put into order in their own type, Llama 3's factors are
 * computed. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "model/weights_private.h"
#include "tensor/kernels.h"

typedef struct copying {
    const km_weight_plan *plan;
    km_model *model;
} copying;

static int64_t source_row(const km_weight_rows *rows, int64_t row) {
    return rows->first + row / rows->group * rows->stride + row % rows->group;
}

/* The elements of a vector, run by run. */
static km_status copy_vector(const km_ctx *ctx, const km_weight_slot *slot, float *out,
                             km_error *err) {
    const km_dtype_traits *traits = km_dtype_get(slot->info->dtype);
    const unsigned char *data = slot->info->data;
    for (int64_t at = 0; at < slot->cols; at += slot->source.group) {
        const int64_t from = source_row(&slot->source, at);
        if (from % traits->block_elements != 0 ||
            slot->source.group % traits->block_elements != 0) {
            return KM_SET(err, KM_EUNSUPPORTED, "tensor '%s': parts of %s blocks are not supported",
                          slot->name, traits->name);
        }
        traits->to_f32(out + at, data + from / traits->block_elements * traits->block_bytes,
                       slot->source.group);
    }
    if (!km_ctx_kernels(ctx)->all_finite(out, slot->cols)) {
        return KM_SET(err, KM_ENUMERIC, "tensor '%s': a weight is not finite", slot->name);
    }
    return KM_OK;
}

static void copy_rows(const km_weight_slot *slot, unsigned char *out) {
    const km_dtype_traits *traits = km_dtype_get(slot->dtype);
    const unsigned char *data = slot->info->data;
    const size_t bytes = (size_t)(slot->cols / traits->block_elements * traits->block_bytes);
    for (int64_t row = 0; row < slot->rows; row++) {
        const size_t from = (size_t)source_row(&slot->source, row);
        memcpy(out + (size_t)row * bytes, data + from * bytes, bytes);
    }
}

/* `n` elements of `size` bytes (2 or 4), `stride` elements apart in `in`. */
static void copy_column(unsigned char *out, const unsigned char *in, int64_t n, int64_t stride,
                        size_t size) {
    if (size == sizeof(uint16_t)) {
        for (int64_t i = 0; i < n; i++) {
            memcpy(out + 2 * i, in + 2 * i * stride, 2);
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        memcpy(out + 4 * i, in + 4 * i * stride, 4);
    }
}

/* Each tile's lines stay in the cache for the rows that share them. */
static void transpose(const km_weight_slot *slot, unsigned char *out) {
    enum { TILE = 64 };
    const size_t size = (size_t)km_dtype_get(slot->dtype)->block_bytes;
    const unsigned char *data = slot->info->data;
    const int64_t stride = slot->source.n_rows;
    for (int64_t col = 0; col < slot->cols; col += TILE) {
        const int64_t n = slot->cols - col > TILE ? TILE : slot->cols - col;
        for (int64_t row = 0; row < slot->rows; row++) {
            const int64_t from = col * stride + source_row(&slot->source, row);
            copy_column(out + (size_t)(row * slot->cols + col) * size, data + (size_t)from * size,
                        n, stride, size);
        }
    }
}

void km__rope_factors(float *out, const km_config *config) {
    const double pi = acos(-1.0);
    const double low = config->rope_low_freq_factor, high = config->rope_high_freq_factor;
    for (int32_t i = 0; i < config->rotary_dim / 2; i++) {
        const double frequency = pow(config->rope_base, -2.0 * i / config->rotary_dim);
        const double turns = config->rope_original_context * frequency / (2.0 * pi);
        double smooth = (turns - low) / (high - low);
        smooth = smooth < 0.0 ? 0.0 : smooth > 1.0 ? 1.0 : smooth;
        out[i] = (float)(1.0 / ((1.0 - smooth) / config->rope_factor + smooth));
    }
}

static km_status copy_slot(const km_weight_slot *slot, km_model *model, km_error *err) {
    void *out = km__weight_place(slot, model->weights.storage);
    if (slot->is_rope_factors && slot->info == NULL) {
        km__rope_factors(out, &model->config);
    } else if (slot->vector != NULL) {
        return copy_vector(model->ctx, slot, out, err);
    } else if (slot->source.transposed) {
        transpose(slot, out);
    } else {
        copy_rows(slot, out);
    }
    return KM_OK;
}

static km_status copy_slots(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    const copying *work = payload;
    for (int64_t i = begin; i < end; i++) {
        if (work->plan->slots[i].offset >= 0) {
            KM_TRY(copy_slot(&work->plan->slots[i], work->model, err));
        }
    }
    return KM_OK;
}

km_status km__weight_plan_copy(const km_weight_plan *plan, km_model *model, km_error *err) {
    copying work = {plan, model};
    return km_parallel_for(plan->ctx, plan->n, 1, copy_slots, &work, err);
}
