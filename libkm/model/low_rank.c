/* low_rank.c: adapters W0 + scale B A (LoRA): their first values, and the sum written into the
 * trainable model. */
#include <math.h>
#include <string.h>

#include "model/model_private.h"
#include "model/optimizer_private.h"
#include "tensor/kernels.h"

#define PIECE_WEIGHTS ((int64_t)1 << 16)
#define CHUNK 1024 /* columns of the product at a time */

km_status km__adapters_cut(km__adapters *adapters, km_error *err) {
    km_ctx *ctx = adapters->model->ctx;
    int64_t n = 0;
    for (int64_t i = 0; i < adapters->n; i++) {
        const km__adapter *adapter = &adapters->list[i];
        const int64_t step = PIECE_WEIGHTS / adapter->cols + 1;
        n += (adapter->rows + step - 1) / step;
    }
    KM_TRY(km_alloc_array((void **)&adapters->pieces, ctx, n, sizeof *adapters->pieces, err));
    KM_TRY(km_alloc_array((void **)&adapters->done, ctx, n, sizeof *adapters->done, err));
    for (int64_t i = 0; i < adapters->n; i++) {
        const km__adapter *adapter = &adapters->list[i];
        const int64_t step = PIECE_WEIGHTS / adapter->cols + 1;
        for (int64_t row = 0; row < adapter->rows; row += step) {
            const int64_t end = row + step < adapter->rows ? row + step : adapter->rows;
            adapters->pieces[adapters->n_pieces++] = (km__adapter_rows){adapter, row, end};
        }
    }
    return KM_OK;
}

void km__adapters_clear(km__adapters *adapters) {
    if (adapters->model == NULL) {
        return;
    }
    km_ctx *ctx = adapters->model->ctx;
    for (int64_t i = 0; i < adapters->n; i++) {
        km_free(ctx, adapters->list[i].kept);
    }
    km_free(ctx, adapters->list);
    km_free(ctx, adapters->pieces);
    km_free(ctx, adapters->done);
}

/* ---- W0 ---- */

/* A copy of the present values where the origin no longer has them. */
static km_status keep(km__adapter *adapter, km_ctx *ctx, km_error *err) {
    const size_t bytes = (size_t)(adapter->rows * adapter->cols) * sizeof(float);
    KM_TRY(km_alloc((void **)&adapter->kept, ctx, bytes, err));
    memcpy(adapter->kept, adapter->values, bytes);
    return KM_OK;
}

static km_status find_bases(km__adapters *adapters, km_error *err) {
    km_model *model = adapters->model;
    km_status status = KM_OK;
    bool *differs = NULL;
    KM_GO(km_alloc_array((void **)&differs, model->ctx, model->n_tensors, sizeof *differs, err));
    KM_GO(km_model_differs(differs, model, err));
    for (int64_t i = 0; i < adapters->n; i++) {
        km__adapter *adapter = &adapters->list[i];
        km_free(model->ctx, adapter->kept);
        adapter->kept = NULL;
        if (differs[adapter->parameter]) {
            KM_GO(keep(adapter, model->ctx, err));
        }
    }
done:
    km_free(model->ctx, differs);
    return status;
}

/* ---- first values ---- */

static void fill_adapter(const void *payload, int64_t index) {
    const km__adapters *adapters = payload;
    const km__adapter *adapter = &adapters->list[index];
    const double bound = 1.0 / sqrt((double)adapter->cols);
    const int64_t n = adapter->low_rank.rank * adapter->cols;
    for (int64_t i = 0; i < n; i++) {
        const double unit =
            km_random_uniform(adapters->seed, (uint64_t)adapter->parameter, (uint64_t)i);
        adapter->a[i] = (float)(bound * (2.0 * unit - 1.0));
    }
    memset(adapter->b, 0, (size_t)(adapter->rows * adapter->low_rank.rank) * sizeof(float));
}

km_status km__adapters_begin(km__adapters *adapters, km_error *err) {
    KM_TRY(find_bases(adapters, err));
    return km__visit_all(adapters->model->ctx, adapters->n, adapters->done, fill_adapter, adapters,
                         err);
}

/* ---- the sum ---- */

/* Add one row of scale B A to a row of W0. */
static void add_product(const km__adapter *adapter, const km_kernels *kernels, int64_t row) {
    const km_low_rank *low = &adapter->low_rank;
    float *out = adapter->values + row * adapter->cols;
    float sum[CHUNK];
    for (int64_t at = 0; at < adapter->cols; at += CHUNK) {
        const int64_t n = adapter->cols - at < CHUNK ? adapter->cols - at : CHUNK;
        memset(sum, 0, sizeof sum);
        for (int32_t k = 0; k < low->rank; k++) {
            kernels->axpy(sum, low->scale * low->b[row * low->rank + k],
                          low->a + k * adapter->cols + at, n);
        }
        kernels->axpy(out + at, 1.0f, sum, n);
    }
}

static void merge_piece(const void *payload, int64_t index) {
    const km__adapters *adapters = payload;
    const km__adapter_rows *piece = &adapters->pieces[index];
    const km_kernels *kernels = km_ctx_kernels(adapters->model->ctx);
    const km__adapter *adapter = piece->adapter;
    float *out = adapter->values + piece->begin * adapter->cols;
    if (adapter->kept == NULL) {
        km__parameter_rows(out, adapters->model->origin, adapter->parameter, piece->begin,
                           piece->end);
    } else {
        memcpy(out, adapter->kept + piece->begin * adapter->cols,
               (size_t)((piece->end - piece->begin) * adapter->cols) * sizeof *out);
    }
    for (int64_t row = piece->begin; row < piece->end; row++) {
        add_product(adapter, kernels, row);
    }
}

km_status km__adapters_merge(const km__adapters *adapters, km_error *err) {
    return km__visit_all(adapters->model->ctx, adapters->n_pieces, adapters->done, merge_piece,
                         adapters, err);
}
