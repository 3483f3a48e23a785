/* save.c: a model written to disk: which tensors, of which types. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "model/save_private.h"

static bool ends_with(const char *name, const char *suffix) {
    size_t n = strlen(name);
    size_t m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

static km_dtype wanted_type(km_save_dtype dtype) {
    switch (dtype) {
    case KM_SAVE_F16:
        return KM_F16;
    case KM_SAVE_BF16:
        return KM_BF16;
    case KM_SAVE_Q8_0:
        return KM_Q8_0;
    default:
        return KM_F32;
    }
}

/* llama.cpp computes with vectors, norms, learned positions and rotary factors in float32 only. */
static bool stays_float(const char *name, const km_tensor_info *info) {
    return info->n_dims < 2 || ends_with(name, "_norm.weight") ||
           strcmp(name, "position_embd.weight") == 0 || strcmp(name, "rope_freqs.weight") == 0;
}

km_dtype km__save_type(const char *name, const km_tensor_info *info, int64_t cols,
                       km_save_dtype dtype, bool gguf) {
    if (dtype == KM_SAVE_KEEP) {
        return info->dtype;
    }
    if (gguf && stays_float(name, info)) {
        return KM_F32;
    }
    km_dtype wanted = wanted_type(dtype);
    return wanted == KM_Q8_0 && cols % 32 != 0 ? KM_F16 : wanted;
}

static km_status list_tensors(km__save_list *list, const km_model *model,
                              const km_save_options *options, bool gguf, km_error *err) {
    list->n = km_container_n_tensors(model->container);
    KM_TRY(km_alloc_array((void **)&list->items, model->ctx, list->n, sizeof *list->items, err));
    for (int64_t i = 0; i < list->n; i++) {
        const km_tensor_info *info = km_container_tensor(model->container, i);
        const int64_t cols = info->n_dims > 0 ? info->dims[info->n_dims - 1] : 1;
        const km_dtype dtype = km__save_type(info->name, info, cols, options->dtype, gguf);
        list->items[i] = (km_write_tensor){.name = info->name, .source = info, .dtype = dtype};
    }
    return KM_OK;
}

km_status km__save_check_target(const char *path, bool gguf, bool overwrite, km_error *err) {
    struct stat info;
    if (stat(path, &info) != 0) {
        return errno == ENOENT ? KM_OK
                               : km_error_set_errno(err, errno, __FILE__, __func__, __LINE__,
                                                    "%s: cannot look at it", path);
    }
    if (gguf && S_ISDIR(info.st_mode)) {
        return KM_SET(err, KM_EINVAL, "%s: is a folder; a GGUF model is one file", path);
    }
    if (!gguf || !overwrite) {
        return KM_SET(err, KM_EINVAL, "%s: is there already%s", path,
                      gguf ? "; overwrite replaces it" : "; a folder is never replaced");
    }
    return KM_OK;
}

static km_status check_options(const km_model *model, const char *path,
                               const km_save_options *options, bool gguf, km_error *err) {
    bool from_gguf = km_container_gguf(model->container) != NULL;
    if ((options->format == KM_SAVE_GGUF && !from_gguf) ||
        (options->format == KM_SAVE_HF && from_gguf)) {
        return KM_SET(err, KM_EUNSUPPORTED, "%s: a model from %s", path,
                      from_gguf ? "GGUF is saved as GGUF only; transformers opens it (gguf_file=)"
                                : "a folder is written as GGUF by km_model_export_gguf");
    }
    if (!gguf && options->dtype == KM_SAVE_Q8_0) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "%s: safetensors cannot hold Q8_0; F32, F16 or BF16 can be written", path);
    }
    return km__save_check_target(path, gguf, options->overwrite, err);
}

km_status km_model_save(const km_model *model, const char *path, const km_save_options *options,
                        km_error *err) {
    static const km_save_options defaults = KM_SAVE_OPTIONS_INIT;
    options = options != NULL ? options : &defaults;
    if (path == NULL) {
        return KM_SET(err, KM_EINVAL, "no path");
    }
    KM_TRY(km__need_file(model, err));
    bool gguf = options->format == KM_SAVE_GGUF ||
                (options->format == KM_SAVE_SAME && km_container_gguf(model->container) != NULL);
    km__save_list list = {NULL, 0};
    km_status status = KM_OK;
    KM_GO(check_options(model, path, options, gguf, err));
    KM_GO(km_container_check(model->container, err));
    KM_GO(list_tensors(&list, model, options, gguf, err));
    KM_GO(gguf ? km__save_gguf(model, path, &list, options, err)
               : km__save_folder(model, path, &list, options, err));
done:
    km_free(model->ctx, list.items);
    return status;
}
