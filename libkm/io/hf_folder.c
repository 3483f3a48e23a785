/* hf_folder.c: open a Hugging Face model folder: config.json, tokenizer files, safetensors.
 *
 * Large models come as several safetensors files named by model.safetensors.index.json:
 * {"metadata": ..., "weight_map": {tensor name: file name}}. File names come from the file and so
 * must be plain names inside the folder. */
#include "io/container_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/json_scan.h"

#define MAX_INDEX_BYTES ((size_t)256 * 1024 * 1024)
#define MAX_FILE_NAME ((size_t)255)

/* A (tensor, file) pair of the index; strings live in the pool of `index_file`. */
typedef struct placement {
    const char *tensor;
    const char *file;
    int shard;
} placement;

typedef struct index_file {
    km_ctx *ctx;
    placement *items;
    int64_t n, capacity;
    char *pool;
} index_file;

static km_status join(char **out, const km_container *container, const char *name, km_error *err) {
    size_t n = strlen(container->path) + strlen(name) + 2;
    KM_TRY(km_alloc((void **)out, container->ctx, n, err));
    (void)snprintf(*out, n, "%s/%s", container->path, name);
    return KM_OK;
}

/* Map a file of the folder; a missing one leaves size 0 when it is optional. */
static km_status map_file(km_map *map, const km_container *container, const char *name,
                          bool optional, km_error *err) {
    char *path = NULL;
    km_error reason = KM_ERROR_INIT;
    KM_TRY(join(&path, container, name, err));
    km_status status = km_map_open(map, path, &reason);
    if (status == KM_ENOTFOUND && optional) {
        status = KM_OK;
    } else if (status != KM_OK && err != NULL && err->code == KM_OK) {
        *err = reason;
    }
    km_free(container->ctx, path);
    return status;
}

static bool exists(const km_container *container, const char *name, km_status *status,
                   km_error *err) {
    char *path = NULL;
    struct stat info;
    *status = join(&path, container, name, err);
    bool there = *status == KM_OK && stat(path, &info) == 0;
    km_free(container->ctx, path);
    return there;
}

/* ---- the index of sharded models ---- */

static km_status check_file_name(const char *name, km_error *err) {
    size_t n = strlen(name);
    if (n == 0 || n > MAX_FILE_NAME || name[0] == '.' || strchr(name, '/') != NULL ||
        strstr(name, "..") != NULL) {
        return KM_SET(err, KM_EFORMAT, "'%.*s' is not a plain file name inside the folder",
                      KM_SHOWN(name));
    }
    return KM_OK;
}

static km_status add_placement(index_file *index, const char *tensor, const char *file,
                               km_error *err) {
    if (index->n == index->capacity) {
        int64_t wanted = index->capacity > 0 ? 2 * index->capacity : 64;
        if (index->n >= KM_MAX_TENSORS) {
            return KM_SET(err, KM_EFORMAT, "more than %" PRId64 " tensors", KM_MAX_TENSORS);
        }
        KM_TRY(km_realloc((void **)&index->items, index->ctx,
                          (size_t)wanted * sizeof(*index->items), err));
        index->capacity = wanted;
    }
    index->items[index->n++] = (placement){tensor, file, 0};
    return KM_OK;
}

static km_status read_weight_map(index_file *index, char **pool, km_scan *scan, km_error *err) {
    bool more;
    KM_TRY(km__scan_open(&more, scan, '{', '}', err));
    while (more) {
        size_t n;
        const char *tensor = *pool;
        KM_TRY(km__scan_string(*pool, &n, scan, err));
        *pool += n + 1;
        KM_TRY(km__scan_expect(scan, ':', err));
        const char *file = *pool;
        (void)km__scan_peek(scan);
        KM_TRY(km__scan_string(*pool, &n, scan, err));
        *pool += n + 1;
        KM_TRY(check_file_name(file, err));
        KM_TRY(add_placement(index, tensor, file, err));
        KM_TRY(km__scan_next(&more, scan, '}', err));
    }
    return KM_OK;
}

static km_status read_index(index_file *index, const km_map *map, km_error *err) {
    if (map->size > MAX_INDEX_BYTES) {
        return KM_SET(err, KM_EUNSUPPORTED, "%zu bytes; at most %zu are read", map->size,
                      MAX_INDEX_BYTES);
    }
    KM_TRY(km_alloc((void **)&index->pool, index->ctx, map->size + 1, err));
    km_scan scan = {(const char *)map->data, map->size, 0, 0};
    char *pool = index->pool;
    bool more;
    bool seen = false;
    KM_TRY(km__scan_open(&more, &scan, '{', '}', err));
    while (more) {
        size_t n;
        KM_TRY(km__scan_string(pool, &n, &scan, err));
        bool weights = strcmp(pool, "weight_map") == 0;
        KM_TRY(km__scan_expect(&scan, ':', err));
        if (weights && seen) {
            return KM_SET(err, KM_EFORMAT, "'weight_map' occurs twice");
        }
        seen = seen || weights;
        KM_TRY(weights ? read_weight_map(index, &pool, &scan, err) : km__scan_skip(&scan, err));
        KM_TRY(km__scan_next(&more, &scan, '}', err));
    }
    if (!seen) {
        return KM_SET(err, KM_EFORMAT, "'weight_map' is missing");
    }
    return km__scan_finish(&scan, err);
}

static int compare_files(const void *a, const void *b) {
    return strcmp(((const placement *)a)->file, ((const placement *)b)->file);
}

/* Sort by file name and number the files. */
static km_status number_files(int *n_files, index_file *index, km_error *err) {
    int n = 0;
    if (index->n > 1) {
        qsort(index->items, (size_t)index->n, sizeof(*index->items), compare_files);
    }
    for (int64_t i = 0; i < index->n; i++) {
        if (i == 0 || strcmp(index->items[i - 1].file, index->items[i].file) != 0) {
            n++;
        }
        if (n > KM_MAX_SHARDS) {
            return KM_SET(err, KM_EFORMAT, "more than %d files", KM_MAX_SHARDS);
        }
        index->items[i].shard = n - 1;
    }
    *n_files = n;
    return KM_OK;
}

/* ---- safetensors files ---- */

static km_status new_shards(km_container *container, int n, km_error *err) {
    KM_TRY(km_alloc_array((void **)&container->shards, container->ctx, n,
                          sizeof(*container->shards), err));
    container->n_shards = n;
    for (int i = 0; i < n; i++) {
        container->shards[i].map.fd = -1;
    }
    return KM_OK;
}

static km_status open_shard(km_container *container, km_shard *shard, const char *name,
                            km_error *err) {
    KM_TRY(km_strdup(&shard->name, container->ctx, name, err));
    KM_TRY(join(&shard->path, container, name, err));
    KM_TRY(km_map_open(&shard->map, shard->path, err));
    km_status status =
        km_safetensors_parse(&shard->st, container->ctx, shard->map.data, shard->map.size, err);
    if (status != KM_OK) {
        km_error_prefix(err, "%s", shard->path);
    }
    return status;
}

static km_status check_placements(const km_container *container, const index_file *index,
                                  km_error *err) {
    for (int64_t i = 0; i < index->n; i++) {
        const km_shard *shard = &container->shards[index->items[i].shard];
        if (km_safetensors_find(shard->st, index->items[i].tensor) == NULL) {
            return KM_SET(err, KM_EFORMAT, "tensor '%.*s' is not in %s",
                          KM_SHOWN(index->items[i].tensor), shard->name);
        }
    }
    return KM_OK;
}

static km_status open_indexed(km_container *container, index_file *index, const km_map *map,
                              km_error *err) {
    int n = 0;
    KM_TRY(read_index(index, map, err));
    KM_TRY(number_files(&n, index, err));
    KM_TRY(new_shards(container, n, err));
    for (int64_t i = 0; i < index->n; i++) {
        km_shard *shard = &container->shards[index->items[i].shard];
        if (shard->st == NULL) {
            KM_TRY(open_shard(container, shard, index->items[i].file, err));
        }
    }
    return check_placements(container, index, err);
}

static km_status open_sharded(km_container *container, const char *name, km_error *err) {
    km_map map;
    index_file index = {container->ctx, NULL, 0, 0, NULL};
    KM_TRY(map_file(&map, container, name, false, err));
    km_status status = open_indexed(container, &index, &map, err);
    if (status != KM_OK) {
        km_error_prefix(err, "%s/%s", container->path, name);
    }
    km_free(container->ctx, index.items);
    km_free(container->ctx, index.pool);
    km_map_close(&map);
    return status;
}

/* Why a folder has no weights that km reads. */
static km_status refuse_folder(const km_container *container, km_error *err) {
    km_status status;
    if (exists(container, "pytorch_model.bin", &status, err) ||
        exists(container, "pytorch_model.bin.index.json", &status, err)) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "%s: holds pytorch_model.bin files, which are pickles and can run code when "
                      "read: convert to safetensors",
                      container->path);
    }
    KM_TRY(status);
    return KM_SET(err, KM_ENOTFOUND,
                  "%s: holds neither model.safetensors nor model.safetensors.index.json",
                  container->path);
}

static km_status open_weights(km_container *container, km_error *err) {
    static const char SINGLE[] = "model.safetensors";
    static const char INDEX[] = "model.safetensors.index.json";
    km_status status;
    if (exists(container, SINGLE, &status, err)) {
        KM_TRY(new_shards(container, 1, err));
        return open_shard(container, &container->shards[0], SINGLE, err);
    }
    KM_TRY(status);
    if (exists(container, INDEX, &status, err)) {
        return open_sharded(container, INDEX, err);
    }
    KM_TRY(status);
    return refuse_folder(container, err);
}

/* One list of tensors over all shards. */
static km_status gather(km_container *container, km_error *err) {
    int64_t n = 0;
    for (int i = 0; i < container->n_shards; i++) {
        n += km_safetensors_n_tensors(container->shards[i].st);
    }
    KM_TRY(km_alloc_array((void **)&container->tensors, container->ctx, n,
                          sizeof(*container->tensors), err));
    KM_TRY(km_alloc_array((void **)&container->by_name, container->ctx, n,
                          sizeof(*container->by_name), err));
    container->n_tensors = n;
    int64_t at = 0;
    for (int i = 0; i < container->n_shards; i++) {
        const km_safetensors *st = container->shards[i].st;
        for (int64_t k = 0; k < km_safetensors_n_tensors(st); k++, at++) {
            container->tensors[at] = km_safetensors_tensor(st, k);
            container->by_name[at] = container->tensors[at];
        }
    }
    const char *twice = km__tensors_sort(container->by_name, n);
    if (twice != NULL) {
        return KM_SET(err, KM_EFORMAT, "%s: tensor '%.*s' is in two files", container->path,
                      KM_SHOWN(twice));
    }
    return KM_OK;
}

km_status km__folder_open(km_container *container, km_error *err) {
    KM_TRY(map_file(&container->config, container, "config.json", true, err));
    if (container->config.size == 0) {
        return KM_SET(err, KM_ENOTFOUND,
                      "%s: has no config.json or an empty one; a Hugging Face model folder holds "
                      "config.json, tokenizer.json and model.safetensors",
                      container->path);
    }
    KM_TRY(map_file(&container->tokenizer, container, "tokenizer.json", true, err));
    KM_TRY(map_file(&container->tokenizer_config, container, "tokenizer_config.json", true, err));
    KM_TRY(open_weights(container, err));
    return gather(container, err);
}

km_status km__folder_from_maps(km_container *container, km_map *config, km_map *weights,
                               km_error *err) {
    const km_map none = {NULL, 0, -1};
    container->config = *config;
    *config = none;
    KM_TRY(map_file(&container->tokenizer, container, "tokenizer.json", false, err));
    KM_TRY(map_file(&container->tokenizer_config, container, "tokenizer_config.json", true, err));
    KM_TRY(new_shards(container, 1, err));
    km_shard *shard = &container->shards[0];
    shard->map = *weights;
    *weights = none;
    KM_TRY(km_strdup(&shard->name, container->ctx, "model.safetensors", err));
    KM_TRY(km_strdup(&shard->path, container->ctx, "model.safetensors in memory", err));
    KM_TRY(km_safetensors_parse(&shard->st, container->ctx, shard->map.data, shard->map.size, err));
    return gather(container, err);
}
