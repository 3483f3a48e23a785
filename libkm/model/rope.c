/* rope.c: rotary position embedding. A pair of elements (a, b) of a head turns by the angle
 * position * frequency: (a cos - b sin, a sin + b cos), the frequency of pair i being
 * base^(-2i/rotary_dim) / linear_scale, divided further by the file's own factors or by those of
 * Llama 3. Angles are computed in double precision, once a forward pass. */
#include <math.h>

#include "model/forward_private.h"

typedef struct fill_work {
    const km__rope *rope;
    const km_model *model;
    int64_t half; /* rotary_dim / 2 */
    bool windowed;
} fill_work;

/* Llama 3's divisor: 1 for short wavelengths, rope_factor for long ones, in between a mean of the
 * two frequencies (Hugging Face's _compute_llama3_parameters). */
static double llama3_factor(const km_config *config, double frequency) {
    const double low = config->rope_low_freq_factor, high = config->rope_high_freq_factor;
    const double turns = config->rope_original_context * frequency / (2.0 * acos(-1.0));
    if (turns > high) {
        return 1.0;
    }
    if (turns < low) {
        return config->rope_factor;
    }
    const double smooth = (turns - low) / (high - low);
    return 1.0 / ((1.0 - smooth) / config->rope_factor + smooth);
}

static double frequency_of(const fill_work *work, int64_t i) {
    const km_config *config = &work->model->config;
    const double base = work->windowed ? config->rope_base_local : config->rope_base;
    const double frequency = pow(base, -(double)i / (double)work->half);
    if (work->windowed) {
        return frequency;
    }
    if (work->model->weights.rope_factors != NULL) {
        return frequency / (double)work->model->weights.rope_factors[i];
    }
    const double factor = config->rope_factor > 0.0 ? llama3_factor(config, frequency) : 1.0;
    return frequency / factor / config->rope_linear_scale;
}

static km_status fill_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const fill_work *work = payload;
    for (int64_t i = 0; i < work->half; i++) {
        const double frequency = frequency_of(work, i);
        for (int64_t row = begin; row < end; row++) {
            const double angle = (double)(work->rope->first_position + row) * frequency;
            work->rope->cosines[row * work->half + i] = (float)cos(angle);
            work->rope->sines[row * work->half + i] = (float)sin(angle);
        }
    }
    return KM_OK;
}

km_status km__rope_fill(const km__rope *rope, const km_model *model, bool windowed,
                        int32_t n_positions, km_error *err) {
    fill_work work = {rope, model, model->config.rotary_dim / 2, windowed};
    return km_parallel_for(model->ctx, n_positions - rope->first_position, 64, fill_range, &work,
                           err);
}

static void turn_interleaved(float *head, const float *cosines, const float *sines, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        float a = head[2 * i], b = head[2 * i + 1];
        head[2 * i] = a * cosines[i] - b * sines[i];
        head[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
}

static void turn_halves(float *head, const float *cosines, const float *sines, int64_t half) {
    for (int64_t i = 0; i < half; i++) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosines[i] - b * sines[i];
        head[i + half] = a * sines[i] + b * cosines[i];
    }
}

void km__rope_turn(float *row, const km__rope *rope, int32_t position, int64_t n_heads,
                   const km_config *config) {
    const int64_t half = config->rotary_dim / 2;
    const int64_t at = (int64_t)(position - rope->first_position) * half;
    for (int64_t head = 0; head < n_heads; head++) {
        float *start = row + head * config->head_dim;
        if (config->rope_pairs == KM_ROPE_HALVES) {
            turn_halves(start, rope->cosines + at, rope->sines + at, half);
        } else {
            turn_interleaved(start, rope->cosines + at, rope->sines + at, half);
        }
    }
}
