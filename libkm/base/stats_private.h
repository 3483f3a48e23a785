/* stats_private.h: checks and building blocks that the files of base's statistics share. */
#ifndef KM_BASE_STATS_PRIVATE_H
#define KM_BASE_STATS_PRIVATE_H

#include "base/base.h"
#include "km/stats.h"

/* KM_EINVAL for n < least; KM_ENUMERIC naming the first value that is not finite. */
KM_NODISCARD km_status km__stats_check(const double *x, int64_t n, int64_t least, const char *name,
                                       km_error *err);
KM_NODISCARD km_status km__stats_check_confidence(double confidence, km_error *err);

/* Neumaier's compensated sum. */
typedef struct km__sum {
    double sum, compensation;
} km__sum;
void km__sum_add(km__sum *sum, double value);
double km__sum_get(const km__sum *sum);

/* Sort rising in place. */
void km__sort_doubles(double *x, int64_t n);

/* A stream of draws for one replicate. */
typedef struct km__draws {
    uint64_t seed, stream, counter;
} km__draws;
int64_t km__draw_below(km__draws *draws, int64_t bound);

/* Dense numbers 0..*n_groups-1 for any ids, in rising order of id. */
KM_NODISCARD km_status km__dense_ids(int64_t *out, int64_t *n_groups, km_ctx *ctx,
                                     const int64_t *ids, int64_t n, km_error *err);
/* The same within groups: out counts from 0 in each group, sizes (n_groups) is how many distinct
 * ids a group has. ids NULL: one id a group. */
KM_NODISCARD km_status km__local_ids(int64_t *out, int64_t *sizes, int64_t n_groups, km_ctx *ctx,
                                     const int64_t *group, const int64_t *ids, int64_t n,
                                     km_error *err);

#endif
