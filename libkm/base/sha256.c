/* sha256.c: SHA-256 as FIPS 180-4 defines it.
 *
 * Fingerprints of models, digests of stored tables and content keys are SHA-256, so that they
 * can be checked with any tool. Written out here because it is sixty lines and a library for it
 * would be one more system package. x86 processors with the SHA extensions compute a block with
 * their instructions (Intel's manual, SHA256RNDS2 and what stands beside it), about six times as
 * fast. Tests: the vectors of FIPS 180-4 and of NIST's CAVP, and both ways against each other.
 */
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <stdatomic.h>
#endif

#include "base/base.h"

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate(uint32_t x, int bits) {
    return x >> bits | x << (32 - bits);
}

static uint32_t load_be(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void expand(uint32_t w[64], const unsigned char *block) {
    for (int t = 0; t < 16; t++) {
        w[t] = load_be(block + 4 * t);
    }
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = s1 + w[t - 7] + s0 + w[t - 16];
    }
}

static void compress_plain(uint32_t state[8], const unsigned char *block) {
    uint32_t w[64];
    expand(w, block);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int t = 0; t < 64; t++) {
        uint32_t sum1 = rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25);
        uint32_t t1 = h + sum1 + ((e & f) ^ (~e & g)) + round_constants[t] + w[t];
        uint32_t sum0 = rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22);
        uint32_t t2 = sum0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + t1;
        d = c;
        c = b;
        b = a;
        a = t1 + t2;
    }
    const uint32_t step[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; i++) {
        state[i] += step[i];
    }
}

#if defined(__x86_64__)
/* Asked once: CPUID is slow in virtual machines. */
static bool has_instructions(void) {
    static atomic_int known; /* 0: not asked yet, 1: no, 2: yes */
    int answer = atomic_load(&known);
    if (answer == 0) {
        unsigned int a, b = 0, c = 0, d;
        bool sha = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA) != 0;
        answer = sha && __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) != 0 ? 2 : 1;
        atomic_store(&known, answer);
    }
    return answer == 2;
}

/* The instructions keep the state as (a, b, e, f) and (c, d, g, h), highest first. */
__attribute__((target("sha,sse4.1"))) static void compress_fast(uint32_t state[8],
                                                                const unsigned char *block) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i abcd = _mm_loadu_si128((const __m128i *)state);
    __m128i efgh = _mm_loadu_si128((const __m128i *)(state + 4));
    __m128i badc = _mm_shuffle_epi32(abcd, 0xb1), hgfe = _mm_shuffle_epi32(efgh, 0x1b);
    const __m128i abef = _mm_alignr_epi8(badc, hgfe, 8), cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
    __m128i first = abef, second = cdgh, w[4];
    for (int i = 0; i < 16; i++) {
        __m128i *own = &w[i & 3];
        if (i < 4) {
            *own = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(block + 16 * i)), swap);
        } else {
            const __m128i last = w[(i + 3) & 3];
            const __m128i seventh = _mm_alignr_epi8(last, w[(i + 2) & 3], 4);
            const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(*own, w[(i + 1) & 3]), seventh);
            *own = _mm_sha256msg2_epu32(sum, last);
        }
        const __m128i *constants = (const __m128i *)(round_constants + 4 * i);
        const __m128i k = _mm_add_epi32(*own, _mm_loadu_si128(constants));
        second = _mm_sha256rnds2_epu32(second, first, k);
        first = _mm_sha256rnds2_epu32(first, second, _mm_shuffle_epi32(k, 0x0e));
    }
    first = _mm_shuffle_epi32(_mm_add_epi32(first, abef), 0x1b);
    second = _mm_shuffle_epi32(_mm_add_epi32(second, cdgh), 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(first, second, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(second, first, 8));
}
#else
static bool has_instructions(void) {
    return false;
}

static void compress_fast(uint32_t state[8], const unsigned char *block) {
    compress_plain(state, block);
}
#endif

static void compress(km_sha256 *sha, const unsigned char *block) {
    if (sha->plain) {
        compress_plain(sha->state, block);
    } else {
        compress_fast(sha->state, block);
    }
}

void km_sha256_init(km_sha256 *sha) {
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(sha->state, start, sizeof start);
    sha->length = 0;
    sha->plain = !has_instructions();
}

void km_sha256_update(km_sha256 *sha, const void *data, size_t n) {
    const unsigned char *bytes = data;
    size_t used = (size_t)(sha->length % 64);
    sha->length += n;
    while (n > 0) {
        if (used == 0 && n >= 64) {
            compress(sha, bytes);
            bytes += 64;
            n -= 64;
            continue;
        }
        size_t take = n < 64 - used ? n : 64 - used;
        memcpy(sha->block + used, bytes, take);
        bytes += take;
        n -= take;
        used += take;
        if (used == 64) {
            compress(sha, sha->block);
            used = 0;
        }
    }
}

void km_sha256_final(km_sha256 *sha, unsigned char digest[32]) {
    uint64_t bits = sha->length * 8;
    size_t used = (size_t)(sha->length % 64);
    unsigned char tail[72] = {0x80};
    size_t padding = used < 56 ? 56 - used : 120 - used;
    for (int i = 0; i < 8; i++) {
        tail[padding + (size_t)i] = (unsigned char)(bits >> (56 - 8 * i));
    }
    km_sha256_update(sha, tail, padding + 8);
    for (int i = 0; i < 32; i++) {
        digest[i] = (unsigned char)(sha->state[i / 4] >> (24 - 8 * (i % 4)));
    }
}

void km_sha256_hex(char out[65], const unsigned char digest[32]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 32; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[64] = '\0';
}
