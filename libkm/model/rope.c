/* rope.c: rotary position embedding. A pair of elements (a, b) of a head turns by the angle
 * position * base^(-2i/Dh) / linear_scale: (a cos - b sin, a sin + b cos). Angles are computed in
 * double precision, once a forward pass. */
#include <math.h>

#include "model/forward_private.h"

typedef struct fill_work {
    const km__rope *rope;
    int64_t half; /* Dh / 2 */
    double base, linear_scale;
} fill_work;

static km_status fill_range(void *payload, int64_t begin, int64_t end, int worker, km_error *err) {
    (void)worker;
    (void)err;
    const fill_work *work = payload;
    for (int64_t i = 0; i < work->half; i++) {
        double frequency = pow(work->base, -(double)i / (double)work->half) / work->linear_scale;
        for (int64_t position = begin; position < end; position++) {
            double angle = (double)position * frequency;
            work->rope->cosines[position * work->half + i] = (float)cos(angle);
            work->rope->sines[position * work->half + i] = (float)sin(angle);
        }
    }
    return KM_OK;
}

km_status km__rope_fill(const km__rope *rope, const km_model *model, double base,
                        double linear_scale, int32_t n_positions, km_error *err) {
    fill_work work = {rope, model->config.head_dim / 2, base, linear_scale};
    return km_parallel_for(model->ctx, n_positions, 64, fill_range, &work, err);
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
    const int64_t half = config->head_dim / 2;
    const float *cosines = rope->cosines + position * half, *sines = rope->sines + position * half;
    for (int64_t head = 0; head < n_heads; head++) {
        float *start = row + head * config->head_dim;
        if (config->rope_pairs == KM_ROPE_HALVES) {
            turn_halves(start, cosines, sines, half);
        } else {
            turn_interleaved(start, cosines, sines, half);
        }
    }
}
