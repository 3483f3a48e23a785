/* cpu.c: which instruction-set level the machine runs, and how many CPUs this process may use. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/ctx_private.h"

/* Variants of this processor's architecture are listed from the least to the most demanding. */
typedef struct variant {
    int level;
    const char *name;
} variant;

#if defined(__x86_64__)
/* Feature by feature rather than by level name, which older compilers do not know. The builtin also
 * checks that the operating system saves the wide registers. */
static bool has_v3(void) {
    unsigned int a, b, c = 0, d;
    bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

static bool has_v4(void) {
    return has_v3() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

static int best_level(void) {
    __builtin_cpu_init();
    return has_v4() ? 4 : has_v3() ? 3 : 1;
}

static const variant VARIANTS[] = {{1, "v1"}, {3, "v3"}, {4, "v4"}};
static const char NAMES[] = "v1, v3 or v4";
#else
static int best_level(void) {
    return 1; /* NEON is part of the architecture */
}

static const variant VARIANTS[] = {{1, "neon"}};
static const char NAMES[] = "neon";
#endif

#define N_VARIANTS (int)(sizeof VARIANTS / sizeof VARIANTS[0])

const char *km__cpu_name(int level) {
    int i = N_VARIANTS - 1;
    while (i > 0 && VARIANTS[i].level > level) {
        i--;
    }
    return VARIANTS[i].name;
}

/* 0 when no variant has this name. */
static int level_of(const char *name) {
    for (int i = 0; i < N_VARIANTS; i++) {
        if (strcmp(name, VARIANTS[i].name) == 0) {
            return VARIANTS[i].level;
        }
    }
    return 0;
}

km_status km__cpu_choose(int *out, const char *name, km_error *err) {
    const char *source = "the option cpu";
    if (name == NULL) {
        name = getenv("KM_CPU");
        source = "the environment variable KM_CPU";
        name = name != NULL && name[0] == '\0' ? NULL : name;
    }
    int best = best_level();
    if (name == NULL) {
        *out = best;
        return KM_OK;
    }
    int level = level_of(name);
    if (level == 0) {
        return KM_SET(err, KM_EINVAL, "%s is '%.32s'; it must be %s", source, name, NAMES);
    }
    if (level > best) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "%s asks for %s, but the best this machine can run is %s", source, name,
                      km__cpu_name(best));
    }
    *out = level;
    return KM_OK;
}

int km__cpu_count(void) {
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        int n = CPU_COUNT(&set);
        return n > 0 ? n : 1;
    }
    long online = sysconf(_SC_NPROCESSORS_ONLN); /* more CPUs than cpu_set_t can hold */
    return online > 0 ? (int)online : 1;
}
