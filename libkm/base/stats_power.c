/* stats_power.c: what a sample can show, by normal approximation.
 *
 * Pairs for a difference d of paired proportions with discordance psi (Connor 1987), and items a
 * group for two separate proportions with mean p (Fleiss), with z_a and z_b the quantiles of 1 -
 * alpha/2 and of the power:
 *
 *     n = (z_a sqrt(psi) + z_b sqrt(psi - d^2))^2 / d^2
 *     n = (z_a sqrt(2 p (1 - p)) + z_b sqrt(p1 (1 - p1) + p2 (1 - p2)))^2 / (p1 - p2)^2
 *
 * The smallest difference that a given n shows solves them for d.
 */
#include <math.h>

#include "base/stats_private.h"

typedef struct design {
    double z_alpha, z_power;
} design;

static km_status make_design(design *out, double alpha, double power, double design_effect,
                             km_error *err) {
    if (!(alpha > 0 && alpha < 1) || !(power > 0 && power < 1) || power <= alpha / 2) {
        return KM_SET(err, KM_EINVAL, "alpha %g and power %g; 0 < alpha / 2 < power < 1 is needed",
                      alpha, power);
    }
    if (!(design_effect > 0) || isinf(design_effect)) {
        return KM_SET(err, KM_EINVAL, "the design effect is %g; it must be positive",
                      design_effect);
    }
    out->z_alpha = -km_stats_normal_quantile(alpha / 2);
    out->z_power = km_stats_normal_quantile(power);
    return KM_OK;
}

static km_status check_probability(double p, const char *name, km_error *err) {
    if (!(p >= 0 && p <= 1)) {
        return KM_SET(err, KM_ERANGE, "%s is %g; it must lie in 0..1", name, p);
    }
    return KM_OK;
}

static km_status check_size(double n, km_error *err) {
    if (!(n >= 1) || isinf(n)) {
        return KM_SET(err, KM_EINVAL, "a sample of %g", n);
    }
    return KM_OK;
}

/* Pairs to show difference d: the null's variance is psi, the alternative's psi - d^2. */
static double pairs_for(double d, double discordance, const design *z) {
    double root = z->z_alpha * sqrt(discordance) + z->z_power * sqrt(fmax(discordance - d * d, 0));
    return root * root / (d * d);
}

static double items_for(double p1, double p2, const design *z) {
    double mean = (p1 + p2) / 2;
    double root =
        z->z_alpha * sqrt(2 * mean * (1 - mean)) + z->z_power * sqrt(p1 * (1 - p1) + p2 * (1 - p2));
    return root * root / ((p1 - p2) * (p1 - p2));
}

static double items_above(double rise, double baseline, const design *z) {
    return items_for(baseline, baseline + rise, z);
}

typedef double (*needed_fn)(double difference, double fixed, const design *z);

/* The smallest difference up to `high` that n units show; NaN when not even `high` is shown. What
 * is needed falls as the difference grows, so halving finds it. */
static double smallest_shown(needed_fn needed, double fixed, double high, double n,
                             const design *z) {
    double low = 0;
    if (!(high > 0) || needed(high, fixed, z) > n) {
        return NAN;
    }
    for (int i = 0; i < 100; i++) {
        double middle = (low + high) / 2;
        if (needed(middle, fixed, z) > n) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return high;
}

km_status km_stats_pairs_needed(double *out, double difference, double discordance, double alpha,
                                double power, double design_effect, km_error *err) {
    design z;
    KM_TRY(make_design(&z, alpha, power, design_effect, err));
    KM_TRY(check_probability(discordance, "discordance", err));
    double d = fabs(difference);
    if (!(d > 0 && d <= discordance)) {
        return KM_SET(err, KM_EINVAL, "a difference of %g with a discordance of %g", difference,
                      discordance);
    }
    *out = pairs_for(d, discordance, &z) * design_effect;
    return KM_OK;
}

km_status km_stats_power_paired(double *out, double n, double discordance, double alpha,
                                double power, double design_effect, km_error *err) {
    design z;
    KM_TRY(make_design(&z, alpha, power, design_effect, err));
    KM_TRY(check_probability(discordance, "discordance", err));
    KM_TRY(check_size(n, err));
    *out = smallest_shown(pairs_for, discordance, discordance, n / design_effect, &z);
    return KM_OK;
}

km_status km_stats_items_needed(double *out, double p1, double p2, double alpha, double power,
                                double design_effect, km_error *err) {
    design z;
    KM_TRY(make_design(&z, alpha, power, design_effect, err));
    KM_TRY(check_probability(p1, "p1", err));
    KM_TRY(check_probability(p2, "p2", err));
    if (!(fabs(p1 - p2) > 0)) {
        return KM_SET(err, KM_EINVAL, "the two proportions are equal: %g", p1);
    }
    *out = items_for(p1, p2, &z) * design_effect;
    return KM_OK;
}

km_status km_stats_power_two_proportions(double *out, double n, double baseline, double alpha,
                                         double power, double design_effect, km_error *err) {
    design z;
    KM_TRY(make_design(&z, alpha, power, design_effect, err));
    KM_TRY(check_probability(baseline, "baseline", err));
    KM_TRY(check_size(n, err));
    *out = smallest_shown(items_above, baseline, 1 - baseline, n / design_effect, &z);
    return KM_OK;
}
