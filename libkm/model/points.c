/* points.c: names and shapes of the places in a forward pass that can be read and changed. */
#include <string.h>

#include "base/base.h"
#include "km/model.h"

static const char *const NAMES[KM_N_POINTS] = {
    [KM_POINT_EMBED] = "embed",
    [KM_POINT_RESID_PRE] = "resid_pre",
    [KM_POINT_Q] = "q",
    [KM_POINT_K] = "k",
    [KM_POINT_V] = "v",
    [KM_POINT_ATTN_SCORES] = "attn_scores",
    [KM_POINT_ATTN_PATTERN] = "attn_pattern",
    [KM_POINT_ATTN_HEAD_OUT] = "attn_head_out",
    [KM_POINT_ATTN_OUT] = "attn_out",
    [KM_POINT_RESID_MID] = "resid_mid",
    [KM_POINT_MLP_PRE] = "mlp_pre",
    [KM_POINT_MLP_HIDDEN] = "mlp_hidden",
    [KM_POINT_MLP_OUT] = "mlp_out",
    [KM_POINT_RESID_POST] = "resid_post",
    [KM_POINT_FINAL_NORM] = "final_norm",
    [KM_POINT_LOGITS] = "logits",
    [KM_POINT_Q_INPUT] = "q_input",
    [KM_POINT_K_INPUT] = "k_input",
    [KM_POINT_V_INPUT] = "v_input",
    [KM_POINT_MLP_INPUT] = "mlp_input",
};

const char *km_point_name(km_point point) {
    return (int)point >= 0 && (int)point < KM_N_POINTS ? NAMES[point] : NULL;
}

/* "embed, resid_pre, ..." into out. */
static void list_names(char *out, size_t size) {
    size_t at = 0;
    out[0] = '\0';
    for (int i = 0; i < KM_N_POINTS; i++) {
        const size_t n = strlen(NAMES[i]);
        if (at + n + 3 > size) {
            return;
        }
        if (i > 0) {
            memcpy(out + at, ", ", 3);
            at += 2;
        }
        memcpy(out + at, NAMES[i], n + 1);
        at += n;
    }
}

km_status km_point_parse(km_point *out, const char *name, km_error *err) {
    char names[400];
    if (out == NULL || name == NULL) {
        return KM_SET(err, KM_EINVAL, "no name of a point or no place for it");
    }
    for (int i = 0; i < KM_N_POINTS; i++) {
        if (strcmp(name, NAMES[i]) == 0) {
            *out = (km_point)i;
            return KM_OK;
        }
    }
    list_names(names, sizeof names);
    return KM_SET(err, KM_ENOTFOUND, "no point is called '%.40s'; the points are %s", name, names);
}

bool km_point_exists(km_point point, const km_config *config) {
    return km_point_name(point) != NULL &&
           !(point == KM_POINT_RESID_MID && config->parallel_residual);
}

bool km_point_has_layer(km_point point) {
    return point != KM_POINT_EMBED && point != KM_POINT_FINAL_NORM && point != KM_POINT_LOGITS;
}

int64_t km_point_heads(km_point point, const km_config *config) {
    switch (point) {
    case KM_POINT_Q:
    case KM_POINT_ATTN_SCORES:
    case KM_POINT_ATTN_PATTERN:
    case KM_POINT_ATTN_HEAD_OUT:
    case KM_POINT_Q_INPUT:
        return config->n_heads;
    case KM_POINT_K:
    case KM_POINT_V:
    case KM_POINT_K_INPUT:
    case KM_POINT_V_INPUT:
        return config->n_kv_heads;
    default:
        return 1;
    }
}

int64_t km_point_width(km_point point, const km_config *config, int64_t n_positions) {
    switch (point) {
    case KM_POINT_Q:
    case KM_POINT_K:
    case KM_POINT_V:
    case KM_POINT_ATTN_HEAD_OUT:
        return config->head_dim;
    case KM_POINT_ATTN_SCORES:
    case KM_POINT_ATTN_PATTERN:
        return n_positions;
    case KM_POINT_MLP_PRE:
    case KM_POINT_MLP_HIDDEN:
        return config->d_ffn;
    case KM_POINT_LOGITS:
        return config->vocab_size;
    default:
        return config->d_model;
    }
}
