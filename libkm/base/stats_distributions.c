/* stats_distributions.c: the normal, beta and Student distributions.
 *
 * The normal distribution function is the C library's erfc; Student's follows from the
 * incomplete beta function: P(|T| >= t) = I_x(df / 2, 1 / 2) with x = df / (df + t^2). Quantiles
 * invert the functions, so that each pair agrees to the last digits.
 */
#include <math.h>

#include "base/stats_private.h"

#define SQRT_HALF 0.70710678118654752440
#define SQRT_TWO_PI 2.50662827463100050242
#define PI 3.14159265358979323846

double km_stats_normal_cdf(double x) {
    return 0.5 * erfc(-x * SQRT_HALF);
}

/* A start good to a few parts in a thousand (Winitzki's approximation of the inverse error
 * function), then Halley's iteration, which triples the digits each time. Lower half only. */
static double lower_quantile(double p) {
    double a = 0.147;
    double log_term = log(4 * p * (1 - p));
    double b = 2 / (PI * a) + log_term / 2;
    double x = -sqrt(2.0) * sqrt(sqrt(b * b - log_term / a) - b);
    for (int i = 0; i < 4; i++) {
        double density = exp(-x * x / 2) / SQRT_TWO_PI;
        if (density == 0) {
            break;
        }
        double step = (km_stats_normal_cdf(x) - p) / density;
        x -= step / (1 + x * step / 2);
    }
    return x;
}

double km_stats_normal_quantile(double p) {
    if (!(p >= 0 && p <= 1)) {
        return NAN;
    }
    if (p == 0 || p == 1) {
        return p == 0 ? -INFINITY : INFINITY;
    }
    return p <= 0.5 ? lower_quantile(p) : -lower_quantile(1 - p);
}

/* The continued fraction of I_x(a, b) by Lentz's method; converges fast for x < (a+1)/(a+b+2). */
static double beta_fraction(double x, double a, double b) {
    const double tiny = 1e-300;
    double c = 1;
    double d = 1 - (a + b) * x / (a + 1);
    d = 1 / (fabs(d) < tiny ? tiny : d);
    double value = d;
    for (int m = 1; m < 100000; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        const double steps[2] = {even, odd};
        double change = 1;
        for (int k = 0; k < 2; k++) {
            d = 1 + steps[k] * d;
            c = 1 + steps[k] / c;
            d = 1 / (fabs(d) < tiny ? tiny : d);
            c = fabs(c) < tiny ? tiny : c;
            change = d * c;
            value *= change;
        }
        if (fabs(change - 1) < 1e-16) {
            break;
        }
    }
    return value;
}

static double log_beta(double a, double b) {
    int sign;
    return lgamma_r(a, &sign) + lgamma_r(b, &sign) - lgamma_r(a + b, &sign);
}

/* I_x(a, b) where y = 1 - x is passed too, so that neither end loses digits. */
static double incomplete_beta(double x, double y, double a, double b) {
    if (x <= 0 || y <= 0) {
        return x <= 0 ? 0 : 1;
    }
    double front = exp(a * log(x) + b * log(y) - log_beta(a, b));
    if (x < (a + 1) / (a + b + 2)) {
        return front * beta_fraction(x, a, b) / a;
    }
    return 1 - front * beta_fraction(y, b, a) / b;
}

double km_stats_beta_cdf(double x, double a, double b) {
    if (!(x >= 0 && x <= 1 && a > 0 && b > 0)) {
        return NAN;
    }
    return incomplete_beta(x, 1 - x, a, b);
}

double km_stats_t_two_sided(double t, double df) {
    if (isnan(t) || !(df > 0)) {
        return NAN;
    }
    if (isinf(t)) {
        return 0;
    }
    if (isinf(df)) {
        return erfc(fabs(t) * SQRT_HALF);
    }
    double t2 = t * t;
    return incomplete_beta(df / (df + t2), t2 / (df + t2), df / 2, 0.5);
}

double km_stats_t_cdf(double t, double df) {
    double tail = 0.5 * km_stats_t_two_sided(t, df);
    return t < 0 ? tail : 1 - tail;
}

/* Bisection on the tail: the distribution function is monotone and this is never in a hot loop. */
double km_stats_t_quantile(double p, double df) {
    if (!(p >= 0 && p <= 1) || !(df > 0)) {
        return NAN;
    }
    if (p == 0 || p == 1) {
        return p == 0 ? -INFINITY : INFINITY;
    }
    if (p == 0.5) {
        return 0;
    }
    double tail = p < 0.5 ? p : 1 - p;
    double low = 0, high = 1;
    while (0.5 * km_stats_t_two_sided(high, df) > tail && high < 1e300) {
        low = high;
        high *= 2;
    }
    for (int i = 0; i < 200; i++) {
        double middle = low + (high - low) / 2;
        if (middle <= low || middle >= high) {
            break;
        }
        if (0.5 * km_stats_t_two_sided(middle, df) > tail) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return p < 0.5 ? -high : high;
}
