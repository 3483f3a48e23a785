/* km/optimizer.h: AdamW and SGD over float32 tensors, every step one pass over the memory.
 *
 * An optimiser borrows weights and gradients and owns the averages it keeps of gradients. All of it
 * is float32; a step reads and writes each number once, in parallel over pieces that depend on the
 * sizes alone, so results have the same bits for any number of threads. One thread at a time uses
 * an optimiser.
 */
#ifndef KM_OPTIMIZER_H
#define KM_OPTIMIZER_H

#include <stdbool.h>

#include "km/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

/* AdamW: decoupled weight decay and bias correction (Loshchilov and Hutter, "Decoupled Weight Decay
 * Regularization", 2019). SGD: with momentum the average m = momentum m + g stands in place of g,
 * and weight decay is added to g. Both in the order of operations of torch.optim. */
typedef enum km_optimizer_kind { KM_ADAMW = 0, KM_SGD } km_optimizer_kind;

typedef struct km_optimizer_options {
    km_optimizer_kind kind;
    double beta1, beta2; /* AdamW; in [0, 1) */
    double eps;          /* AdamW; positive */
    double momentum;     /* SGD; in [0, 1) */
    double weight_decay; /* at least 0; of the tensors that decay */
} km_optimizer_options;
#define KM_OPTIMIZER_OPTIONS_INIT {KM_ADAMW, 0.9, 0.999, 1e-8, 0.0, 0.0}

/* Borrowed memory of n numbers each. */
typedef struct km_optimizer_tensor {
    const char *name; /* for messages */
    float *values;
    float *gradient; /* zero after a step */
    int64_t n;
    bool decays;
} km_optimizer_tensor;

typedef struct km_optimizer km_optimizer;

/* An optimiser of the given tensors (copied list; names and memory are borrowed), its averages 0
 * and the gradients set to 0. KM_EINVAL for options out of range, KM_ENOMEM with both figures when
 * the averages need more than max_bytes (0: what is available). */
KM_API KM_NODISCARD km_status km_optimizer_new(km_optimizer **out, km_ctx *ctx,
                                               const km_optimizer_options *options,
                                               const km_optimizer_tensor *tensors,
                                               int64_t n_tensors, int64_t max_bytes, km_error *err);
/* NULL is a no-op. */
KM_API void km_optimizer_free(km_optimizer *optimizer);
/* Averages that an optimiser keeps of each weight: 2, 1 or 0. */
KM_API int km_optimizer_n_averages(const km_optimizer_options *options);
/* The first (momentum) or second average of a tensor (n), to be read or written; NULL when there is
 * none. */
KM_API float *km_optimizer_average(const km_optimizer *optimizer, int64_t tensor, int which);

/* Euclidean norm of all gradients together, summed in double precision. KM_ENUMERIC, with the
 * tensor's name, when one of them is not finite. */
KM_API KM_NODISCARD km_status km_optimizer_norm(double *out, const km_optimizer *optimizer,
                                                km_error *err);
/* Finished steps since the averages were 0. */
KM_API int64_t km_optimizer_steps(const km_optimizer *optimizer);
/* Declare that so many steps were finished, after averages were written. KM_EINVAL below 0. */
KM_API KM_NODISCARD km_status km_optimizer_set_steps(km_optimizer *optimizer, int64_t steps,
                                                     km_error *err);
/* One step with a learning rate, on `scale` times the gradients, which become 0. It is finished
 * once begun: when the user stops it meanwhile, KM_ECANCELLED (KM_ECALLBACK) comes after its end.
 * KM_EINVAL for a rate or scale that is negative or not finite. */
KM_API KM_NODISCARD km_status km_optimizer_step(km_optimizer *optimizer, double learning_rate,
                                                double scale, km_error *err);
/* Averages, gradients and the count of steps to 0; weights stay. Done to the end, as a step. */
KM_API KM_NODISCARD km_status km_optimizer_reset(km_optimizer *optimizer, km_error *err);
/* Gradients alone to 0. */
KM_API KM_NODISCARD km_status km_optimizer_drop_gradients(km_optimizer *optimizer, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
