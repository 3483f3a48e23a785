/* weights_random.c: fresh weights of a given shape: matrices normal(0, 0.02), gains that do
 * nothing, biases 0.
 *
 * Initialiser version 1. Element i of a tensor is a pure function of (seed, tensor number, i), so
 * any number of threads gives the same bits; only IEEE additions, products, quotients and square
 * roots are used, so every processor does. Each 64-bit output of SplitMix64 (Steele, Lea, Flood
 * 2014) at a given counter makes two normals by the Box-Muller transform with 31 bits of radius and
 * 26 of angle: in float32 their error is below 2e-6, the largest magnitude 6.66 standard
 * deviations. The loops have no branches and fixed lengths for the compiler's vectoriser. */
#include "model/parameters.h"
#include "model/weights_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define STANDARD_DEVIATION 0.02f
#define PAIRS 256 /* a block: 256 cosine halves, then 256 sine halves */
#define BLOCK (2 * PAIRS)

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

static float float_of(int32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* ln(x) for normal x > 0: exponent, and the atanh series of the fraction in [sqrt(1/2), sqrt(2)).
 */
static float log_of(float x) {
    int32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    int32_t exponent = (bits - 0x3f3504f3) >> 23;
    float fraction = float_of(bits - (int32_t)((uint32_t)exponent << 23));
    float s = (fraction - 1.0f) / (fraction + 1.0f);
    float s2 = s * s;
    float series = 1.0f / 7.0f + s2 * (1.0f / 9.0f);
    series = 1.0f / 5.0f + s2 * series;
    series = 1.0f / 3.0f + s2 * series;
    series = 1.0f + s2 * series;
    return (float)exponent * 0.693147181f + 2.0f * s * series;
}

/* Taylor series on [-pi/4, pi/4]. */
static float sine_of(float x) {
    float x2 = x * x;
    float series = -1.0f / 5040.0f + x2 * (1.0f / 362880.0f);
    series = 1.0f / 120.0f + x2 * series;
    series = -1.0f / 6.0f + x2 * series;
    return x + x * x2 * series;
}

static float cosine_of(float x) {
    float x2 = x * x;
    float series = 1.0f / 40320.0f - x2 * (1.0f / 3628800.0f);
    series = -1.0f / 720.0f + x2 * series;
    series = 1.0f / 24.0f + x2 * series;
    series = -0.5f + x2 * series;
    return 1.0f + x2 * series;
}

/* Two normals from 31 and 26 random bits. The top two bits of the angle choose the quarter turn. */
static void box_muller(float *first, float *second, int32_t radius_bits, int32_t angle_bits) {
    float uniform = ((float)radius_bits + 0.5f) * 0x1p-31f;
    float radius = STANDARD_DEVIATION * sqrtf(-2.0f * log_of(uniform));
    int32_t quarter = angle_bits >> 24;
    float angle = (float)(angle_bits & 0xffffff) * (0x1p-24f * 1.57079633f) - 0.785398163f;
    float c = radius * cosine_of(angle);
    float s = radius * sine_of(angle);
    float swapped_c = (quarter & 1) != 0 ? s : c;
    float swapped_s = (quarter & 1) != 0 ? c : s;
    *first = (quarter & 2) != 0 ? -swapped_c : swapped_c;
    *second = (quarter & 1) == (quarter >> 1) ? swapped_s : -swapped_s;
}

/* The 512 normals of block `block` of a tensor. */
static void fill_block(float out[BLOCK], uint64_t key, int64_t block) {
    int32_t radius[PAIRS], angle[PAIRS];
    for (int i = 0; i < PAIRS; i++) {
        uint64_t counter = (uint64_t)block * PAIRS + (uint64_t)i + 1;
        uint64_t bits = mix(key + counter * 0x9e3779b97f4a7c15ULL);
        radius[i] = (int32_t)(bits >> 33);
        angle[i] = (int32_t)(bits & 0x3ffffff);
    }
    for (int i = 0; i < PAIRS; i++) {
        box_muller(&out[i], &out[PAIRS + i], radius[i], angle[i]);
    }
}

void km__random_normals(float *out, uint64_t key, int64_t begin, int64_t end) {
    float last[BLOCK];
    for (int64_t at = begin; at < end; at += BLOCK) {
        if (end - at >= BLOCK) {
            fill_block(out + (at - begin), key, at / BLOCK);
        } else {
            fill_block(last, key, at / BLOCK);
            memcpy(out + (at - begin), last, (size_t)(end - at) * sizeof(*out));
        }
    }
}

typedef struct filling {
    const km_weight_plan *plan;
    const km_weight_range *ranges;
    void *storage;
    float gain;
    uint64_t seed;
} filling;

static km_status fill_ranges(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const filling *work = payload;
    for (int64_t i = begin; i < end; i++) {
        const km_weight_range *part = &work->ranges[i];
        float *out = (float *)km__weight_place(part->slot, work->storage) + part->begin;
        if (part->slot->n_dims == 2) {
            uint64_t stream = (uint64_t)(part->slot - work->plan->slots);
            km__random_normals(out, km_random_u64(work->seed, stream, 0), part->begin, part->end);
            continue;
        }
        for (int64_t k = 0; k < part->end - part->begin; k++) {
            out[k] = part->slot->is_bias ? 0.0f : work->gain;
        }
    }
    return KM_OK;
}

/* The control turns its heads as the model does. */
static void inherit_rope_factors(const km_weight_plan *plan, km_model *model) {
    const km_weight_slot *last = &plan->slots[plan->n - 1];
    if (!last->is_rope_factors) {
        return;
    }
    float *out = km__weight_place(last, model->weights.storage);
    if (model->config.rope_factor != 0.0) {
        km__rope_factors(out, &model->config);
    } else {
        memcpy(out, model->origin->weights.rope_factors, (size_t)last->cols * sizeof(*out));
    }
}

km_status km__weights_randomise(km_model *model, uint64_t seed, km_error *err) {
    static const km_weight_naming NAMELESS = {KM_NAMES_NONE, "", "", false, false};
    km_status status = KM_OK;
    km_weight_plan plan = {model->ctx, NULL, 0, 0};
    km_weight_range *ranges = NULL;
    int64_t n;
    KM_GO(km__weight_plan_new(&plan, model, &NAMELESS, err));
    KM_GO(km__weight_plan_allocate(&plan, model, 0, err));
    KM_GO(km__weight_plan_cut(&ranges, &n, &plan, err));
    filling work = {&plan, ranges, model->weights.storage, 1.0f - model->config.norm_offset, seed};
    KM_GO(km_parallel_for(model->ctx, n, 1, fill_ranges, &work, err));
    inherit_rope_factors(&plan, model);
    km__weight_plan_connect(&plan, model);
    (void)snprintf(model->precision, sizeof(model->precision), "F32");
    KM_GO(km__parameters_list(model, err));
done:
    km_free(model->ctx, ranges);
    km__weight_plan_clear(&plan);
    return status;
}
