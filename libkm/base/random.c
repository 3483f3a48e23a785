/* random.c: Philox 4x32 with ten rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers:
 * as easy as 1, 2, 3", SC 2011): the key is the seed, the counter holds counter and stream. */
#include <math.h>

#include "base/base.h"

#define MUL0 0xD2511F53u
#define MUL1 0xCD9E8D57u
#define WEYL0 0x9E3779B9u
#define WEYL1 0xBB67AE85u
#define TWO_PI 6.283185307179586476925

__extension__ typedef unsigned __int128 uint128;

typedef struct pair {
    uint64_t low, high;
} pair;

static pair philox(uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t x[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), (uint32_t)stream,
                     (uint32_t)(stream >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)MUL0 * x[0];
        uint64_t p1 = (uint64_t)MUL1 * x[2];
        uint32_t y0 = (uint32_t)(p1 >> 32) ^ x[1] ^ key[0];
        uint32_t y2 = (uint32_t)(p0 >> 32) ^ x[3] ^ key[1];
        x[0] = y0;
        x[1] = (uint32_t)p1;
        x[2] = y2;
        x[3] = (uint32_t)p0;
        key[0] += WEYL0;
        key[1] += WEYL1;
    }
    return (pair){x[0] | (uint64_t)x[1] << 32, x[2] | (uint64_t)x[3] << 32};
}

static double unit(uint64_t bits) {
    return (double)(bits >> 11) * 0x1p-53;
}

uint64_t km_random_u64(uint64_t seed, uint64_t stream, uint64_t counter) {
    return philox(seed, stream, counter).low;
}

double km_random_uniform(uint64_t seed, uint64_t stream, uint64_t counter) {
    return unit(philox(seed, stream, counter).low);
}

/* Box and Muller; the radius takes 1 - u so that the logarithm never sees zero. */
double km_random_normal(uint64_t seed, uint64_t stream, uint64_t counter) {
    pair bits = philox(seed, stream, counter);
    return sqrt(-2.0 * log(1.0 - unit(bits.low))) * cos(TWO_PI * unit(bits.high));
}

/* The high half of bits * bound is uniform once the few lowest products are turned away (Lemire,
 * "Fast random integer generation in an interval", 2019). A new try turns the key, because the
 * counter is full. */
uint64_t km_random_below(uint64_t bound, uint64_t seed, uint64_t stream, uint64_t counter) {
    uint64_t reject_below = (0 - bound) % bound;
    for (uint64_t key = seed;; key += 0x9E3779B97F4A7C15u) {
        pair bits = philox(key, stream, counter);
        uint128 product = (uint128)bits.low * bound;
        if ((uint64_t)product < reject_below) {
            product = (uint128)bits.high * bound;
        }
        if ((uint64_t)product >= reject_below) {
            return (uint64_t)(product >> 64);
        }
    }
}

void km_random_permutation(int64_t *out, int64_t n, uint64_t seed, uint64_t stream) {
    for (int64_t i = 0; i < n; i++) {
        out[i] = i;
    }
    for (int64_t i = n - 1; i > 0; i--) {
        int64_t j = (int64_t)km_random_below((uint64_t)i + 1, seed, stream, (uint64_t)i);
        int64_t held = out[i];
        out[i] = out[j];
        out[j] = held;
    }
}
