/* gradient_loss.c: losses that are weighted sums over chosen tokens, and their derivatives. */
#include <math.h>

#include "base/base.h"
#include "km/gradient.h"

/* Index of the first target at or behind `row`. */
static int64_t find_row(const km_target_loss *loss, int64_t row) {
    int64_t low = 0, high = loss->n_targets;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (loss->targets[middle].row < row) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static km_status check_ids(const km_target *targets, int64_t n, int64_t vocab, km_error *err) {
    for (int64_t i = 0; i < n; i++) {
        if (targets[i].id < 0 || targets[i].id >= vocab) {
            return KM_SET(err, KM_ERANGE, "target %d of row %lld is outside the vocabulary of %lld",
                          targets[i].id, (long long)targets[i].row, (long long)vocab);
        }
    }
    return KM_OK;
}

/* Each target's share of the derivative at its own token, read before the row is overwritten. The
 * sum of weight times value is returned. */
static double find_shares(double *shares, const km_target *targets, int64_t n, const float *row,
                          double lse, km_target_kind kind) {
    double total = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double logprob = (double)row[targets[i].id] - lse;
        const double p = kind == KM_TARGET_PROB ? exp(logprob) : 1.0;
        shares[i] = targets[i].weight * p;
        total += kind == KM_TARGET_PROB ? shares[i] : targets[i].weight * logprob;
    }
    return total;
}

/* Where probabilities are normalised the derivative at token v is its shares less p(v) times the
 * sum of all shares. */
static void write_slopes(float *row, int64_t vocab, const double *shares, const km_target *targets,
                         int64_t n, double lse, bool normalised) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) {
        sum += shares[i];
    }
    for (int64_t v = 0; v < vocab; v++) {
        row[v] = normalised ? (float)(-sum * exp((double)row[v] - lse)) : 0.0f;
    }
    for (int64_t i = 0; i < n; i++) {
        row[targets[i].id] += (float)shares[i];
    }
}

km_status km_target_loss_row(void *payload, int64_t index, float *row, int64_t vocab,
                             km_error *err) {
    const km_target_loss *loss = payload;
    km_ctx *ctx = km_model_ctx(loss->model);
    const int64_t first = find_row(loss, index), n = find_row(loss, index + 1) - first;
    const km_target *targets = loss->targets + first;
    const bool normalised = loss->kind != KM_TARGET_LOGIT;
    double *shares = NULL;
    KM_TRY(check_ids(targets, n, vocab, err));
    KM_TRY(km_alloc_array((void **)&shares, ctx, n, sizeof *shares, err));
    const double lse = normalised ? km_logits_logsumexp(loss->model, row, vocab) : 0.0;
    loss->losses[index] = find_shares(shares, targets, n, row, lse, loss->kind);
    write_slopes(row, vocab, shares, targets, n, lse, normalised);
    km_free(ctx, shares);
    return KM_OK;
}
