/* container.c: a model as it lies on disk, whichever format it has.
 *
 * A GGUF file holds everything; a Hugging Face folder holds shards of weights and three JSON
 * files. Above this file only what reads configuration, tokenizer and the names of tensors asks
 * which it was. Files that are neither get a message that says what they probably are and what
 * to do.
 */
#include "io/container_private.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static bool begins_with(const km_map *map, const char *magic, size_t n) {
    return map->size >= n && memcmp(map->data, magic, n) == 0;
}

static bool ends_with(const char *path, const char *suffix) {
    size_t n = strlen(path);
    size_t m = strlen(suffix);
    return n >= m && strcmp(path + n - m, suffix) == 0;
}

/* Say what a file that is not GGUF probably is and what to do with it. */
static km_status refuse_file(const km_map *map, const char *path, km_error *err) {
    if (begins_with(map, "PK\3\4", 4) || begins_with(map, "\x80\2", 2) || ends_with(path, ".bin") ||
        ends_with(path, ".pt") || ends_with(path, ".pth")) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "PyTorch .bin and .pt files are pickles, which can run code when read: "
                      "convert to safetensors or GGUF");
    }
    if (ends_with(path, ".safetensors")) {
        return KM_SET(err, KM_EINVAL,
                      "give the folder that holds this file together with config.json and "
                      "tokenizer.json");
    }
    if (begins_with(map, "lmgg", 4) || begins_with(map, "fmgg", 4) || begins_with(map, "tjgg", 4)) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "a GGML file from before GGUF: convert the original model to GGUF");
    }
    return KM_OK;
}

static km_status refuse_split(const km_gguf *gguf, km_error *err) {
    int64_t count = 1;
    bool found;
    KM_TRY(km_gguf_get_int(gguf, "split.count", &count, &found, err));
    if (found && count > 1) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "one of %lld parts of a split GGUF: merge them first with llama-gguf-split "
                      "--merge",
                      (long long)count);
    }
    return KM_OK;
}

static km_status open_gguf(km_container *container, km_error *err) {
    KM_TRY(km_map_open(&container->map, container->path, err));
    km_status status = refuse_file(&container->map, container->path, err);
    if (status == KM_OK) {
        status = km_gguf_parse(&container->gguf, container->ctx, container->map.data,
                               container->map.size, err);
    }
    if (status == KM_OK) {
        status = refuse_split(container->gguf, err);
    }
    if (status != KM_OK) {
        km_error_prefix(err, "%s", container->path);
    }
    return status;
}

static km_status new_container(km_container **out, km_ctx *ctx, const char *path, km_error *err) {
    km_container *container = NULL;
    KM_TRY(km_alloc_array((void **)&container, ctx, 1, sizeof(*container), err));
    container->ctx = ctx;
    container->map.fd = -1;
    container->config.fd = -1;
    container->tokenizer.fd = -1;
    container->tokenizer_config.fd = -1;
    km_status status = km_strdup(&container->path, ctx, path, err);
    if (status != KM_OK) {
        km_container_close(container);
        return status;
    }
    *out = container;
    return KM_OK;
}

km_status km_container_from_maps(km_container **out, km_ctx *ctx, const char *path, km_map *gguf,
                                 km_map *config, km_map *weights, km_error *err) {
    km_container *container = NULL;
    km_status status = KM_OK;
    KM_GO(new_container(&container, ctx, path, err));
    if (gguf != NULL) {
        container->map = *gguf;
        *gguf = (km_map){NULL, 0, -1};
        KM_GO(km_gguf_parse(&container->gguf, ctx, container->map.data, container->map.size, err));
    } else {
        KM_GO(km__folder_from_maps(container, config, weights, err));
    }
    *out = container;
    container = NULL;
done:
    km_container_close(container);
    for (int i = 0; i < 3; i++) {
        km_map *map = i == 0 ? gguf : i == 1 ? config : weights;
        if (map != NULL) {
            km_map_close(map);
        }
    }
    return status;
}

km_status km_container_open(km_container **out, km_ctx *ctx, const char *path, km_error *err) {
    *out = NULL;
    km_status status = KM_OK;
    km_container *container = NULL;
    struct stat info;
    KM_GO(new_container(&container, ctx, path, err));
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        KM_GO(km__folder_open(container, err));
    } else {
        KM_GO(open_gguf(container, err));
    }
    *out = container;
    container = NULL;
done:
    km_container_close(container);
    return status;
}

void km_container_close(km_container *container) {
    if (container == NULL) {
        return;
    }
    km_ctx *ctx = container->ctx;
    if (container->base != NULL) {
        km_free(ctx, container->tensors);
        km_free(ctx, container->by_name);
        km_free(ctx, container->infos);
        km_free(ctx, container->replaced);
        km_free(ctx, container->path);
        km_free(ctx, container);
        return;
    }
    km_gguf_free(container->gguf);
    km_map_close(&container->map);
    for (int i = 0; i < container->n_shards; i++) {
        km_safetensors_free(container->shards[i].st);
        km_map_close(&container->shards[i].map);
        km_free(ctx, container->shards[i].name);
        km_free(ctx, container->shards[i].path);
    }
    km_free(ctx, container->shards);
    km_map_close(&container->config);
    km_map_close(&container->tokenizer);
    km_map_close(&container->tokenizer_config);
    km_free(ctx, container->tensors);
    km_free(ctx, container->by_name);
    km_free(ctx, container->path);
    km_free(ctx, container);
}

/* ---- overlays ---- */

static int64_t elements_of(const km_tensor_info *info) {
    int64_t n = 1;
    for (int i = 0; i < info->n_dims; i++) {
        n *= info->dims[i];
    }
    return n;
}

/* The replaced tensor's place among the overlay's infos, found by name. */
static km_tensor_info *find_info(km_container *container, const char *name) {
    for (int64_t i = 0; i < container->n_tensors; i++) {
        if (strcmp(container->infos[i].name, name) == 0) {
            return &container->infos[i];
        }
    }
    return NULL;
}

static km_status replace(km_container *container, const km_tensor_info *by, float *room,
                         km_error *err) {
    km_tensor_info *info = find_info(container, by->name);
    if (info == NULL) {
        return KM_SET(err, KM_ENOTFOUND, "%s: no tensor '%.*s'", container->path,
                      KM_SHOWN(by->name));
    }
    if (info->data != km_container_find(container->base, by->name)->data) {
        return KM_SET(err, KM_EINVAL, "tensor '%.*s' is given twice", KM_SHOWN(by->name));
    }
    info->dtype = KM_F32;
    info->nbytes = (size_t)elements_of(info) * sizeof(float);
    memcpy(room, by->data, info->nbytes);
    info->data = room;
    return KM_OK;
}

static km_status fill_overlay(km_container *container, const km_tensor_info *replaced, int64_t n,
                              km_error *err) {
    km_ctx *ctx = container->ctx;
    const int64_t count = km_container_n_tensors(container->base);
    size_t total = 0;
    KM_TRY(km_alloc_array((void **)&container->infos, ctx, count, sizeof *container->infos, err));
    KM_TRY(
        km_alloc_array((void **)&container->tensors, ctx, count, sizeof *container->tensors, err));
    KM_TRY(
        km_alloc_array((void **)&container->by_name, ctx, count, sizeof *container->by_name, err));
    container->n_tensors = count;
    for (int64_t i = 0; i < count; i++) {
        container->infos[i] = *km_container_tensor(container->base, i);
        container->tensors[i] = &container->infos[i];
        container->by_name[i] = &container->infos[i];
    }
    (void)km__tensors_sort(container->by_name, count);
    for (int64_t i = 0; i < n; i++) {
        total += (size_t)(elements_of(&replaced[i]) + 16) * sizeof(float);
    }
    KM_TRY(km_alloc((void **)&container->replaced, ctx, total, err));
    float *room = container->replaced;
    for (int64_t i = 0; i < n; i++) {
        KM_TRY(replace(container, &replaced[i], room, err));
        room += (elements_of(&replaced[i]) + 15) / 16 * 16; /* 64-byte lines */
    }
    return KM_OK;
}

km_status km_container_overlay(km_container **out, const km_container *base,
                               const km_tensor_info *replaced, int64_t n, km_error *err) {
    km_container *container = NULL;
    km_status status = KM_OK;
    KM_GO(km_alloc_array((void **)&container, base->ctx, 1, sizeof *container, err));
    container->ctx = base->ctx;
    container->base = base;
    container->gguf = base->gguf;
    container->config = base->config;
    container->tokenizer = base->tokenizer;
    container->tokenizer_config = base->tokenizer_config;
    KM_GO(km_strdup(&container->path, base->ctx, base->path, err));
    KM_GO(fill_overlay(container, replaced, n, err));
    *out = container;
    container = NULL;
done:
    km_container_close(container);
    return status;
}

bool km_container_is_replaced(const km_container *container, const char *name) {
    for (; container->base != NULL; container = container->base) {
        if (km_container_find(container, name)->data !=
            km_container_find(container->base, name)->data) {
            return true;
        }
    }
    return false;
}

static km_status check_map(const km_map *map, const char *path, km_error *err) {
    km_status status = km_map_check(map, err);
    if (status != KM_OK) {
        km_error_prefix(err, "%s", path);
    }
    return status;
}

km_status km_container_check(const km_container *container, km_error *err) {
    if (container->base != NULL) {
        return km_container_check(container->base, err);
    }
    KM_TRY(check_map(&container->map, container->path, err));
    for (int i = 0; i < container->n_shards; i++) {
        KM_TRY(check_map(&container->shards[i].map, container->shards[i].path, err));
    }
    return KM_OK;
}

const char *km_container_path(const km_container *container) {
    return container->path;
}

const km_gguf *km_container_gguf(const km_container *container) {
    return container->gguf;
}

static const char *text_of(const km_map *map, size_t *n) {
    *n = map->size;
    return (const char *)map->data;
}

const char *km_container_config_json(const km_container *container, size_t *n) {
    return text_of(&container->config, n);
}

const char *km_container_tokenizer_json(const km_container *container, size_t *n) {
    return text_of(&container->tokenizer, n);
}

const char *km_container_tokenizer_config_json(const km_container *container, size_t *n) {
    return text_of(&container->tokenizer_config, n);
}

/* A GGUF file's own list holds its tensors; a folder and an overlay have one of theirs. */
static bool has_list(const km_container *container) {
    return container->gguf == NULL || container->base != NULL;
}

int64_t km_container_n_tensors(const km_container *container) {
    return !has_list(container) ? km_gguf_n_tensors(container->gguf) : container->n_tensors;
}

const km_tensor_info *km_container_tensor(const km_container *container, int64_t index) {
    if (!has_list(container)) {
        return km_gguf_tensor(container->gguf, index);
    }
    return index >= 0 && index < container->n_tensors ? container->tensors[index] : NULL;
}

const km_tensor_info *km_container_find(const km_container *container, const char *name) {
    if (!has_list(container)) {
        return km_gguf_find_tensor(container->gguf, name);
    }
    return km__tensors_find(container->by_name, container->n_tensors, name);
}
