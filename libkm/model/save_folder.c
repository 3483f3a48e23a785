/* save_folder.c: a Hugging Face model as a folder: config.json with its dtype made true, the files
 * of tokenizer and generation as they are, weights in one model.safetensors.
 *
 * The folder is written under a name of its own beside the target and renamed when it is whole. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "model/save_private.h"

#define ATTEMPTS 100

/* Beside config.json and the tokenizer's two files: copied when they are there. */
static const char *const COPIED[] = {
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
};
#define N_COPIED ((int)(sizeof COPIED / sizeof COPIED[0]))

/* The folder under construction. */
typedef struct folder {
    km_ctx *ctx;
    const char *from;
    char *path; /* of the folder; "" once renamed */
} folder;

static km_status io_error(const char *path, const char *what, km_error *err) {
    return km_error_set_errno(err, errno, __FILE__, __func__, __LINE__, "%s: cannot %s", path,
                              what);
}

static km_status join(char **out, km_ctx *ctx, const char *path, const char *name, km_error *err) {
    size_t n = strlen(path) + strlen(name) + 2;
    KM_TRY(km_alloc((void **)out, ctx, n, err));
    (void)snprintf(*out, n, "%s/%s", path, name);
    return KM_OK;
}

static km_status folder_begin(folder *f, const char *target, km_error *err) {
    size_t n = strlen(target);
    while (n > 1 && target[n - 1] == '/') {
        n--;
    }
    size_t room = n + 48;
    bool made = false;
    KM_TRY(km_alloc((void **)&f->path, f->ctx, room, err));
    for (int i = 0; i < ATTEMPTS && !made; i++) {
        (void)snprintf(f->path, room, "%.*s.%ld-%d.part", (int)n, target, (long)getpid(), i);
        made = mkdir(f->path, 0777) == 0;
        if (!made && errno != EEXIST) {
            break;
        }
    }
    if (!made) {
        f->path[0] = '\0';
        return io_error(target, "make a folder beside it", err);
    }
    return KM_OK;
}

static void remove_file(const folder *f, const char *name) {
    char *path = NULL;
    km_error ignored = KM_ERROR_INIT;
    if (join(&path, f->ctx, f->path, name, &ignored) == KM_OK) {
        (void)unlink(path);
    }
    km_free(f->ctx, path);
}

static void folder_abort(folder *f) {
    if (f->path != NULL && f->path[0] != '\0') {
        for (int i = 0; i < N_COPIED; i++) {
            remove_file(f, COPIED[i]);
        }
        remove_file(f, "config.json");
        remove_file(f, "tokenizer.json");
        remove_file(f, "tokenizer_config.json");
        remove_file(f, "model.safetensors");
        (void)rmdir(f->path);
    }
    km_free(f->ctx, f->path);
    f->path = NULL;
}

static km_status write_file(const folder *f, const char *name, const void *data, size_t n,
                            km_error *err) {
    char *path = NULL;
    km_output *output = NULL;
    km_status status = KM_OK;
    KM_GO(join(&path, f->ctx, f->path, name, err));
    KM_GO(km_output_open(&output, f->ctx, path, err));
    KM_GO(km_output_write(output, data, n, err));
    status = km_output_commit(output, err);
    output = NULL;
done:
    km_output_abort(output);
    km_free(f->ctx, path);
    return status;
}

static km_status copy_file(const folder *f, const char *name, km_error *err) {
    char *path = NULL;
    km_map map = {NULL, 0, -1};
    struct stat info;
    km_status status = KM_OK;
    KM_GO(join(&path, f->ctx, f->from, name, err));
    if (stat(path, &info) != 0) {
        goto done; /* not every model has every file */
    }
    KM_GO(km_map_open(&map, path, err));
    KM_GO(write_file(f, name, map.data, map.size, err));
done:
    if (map.fd >= 0) {
        km_map_close(&map);
    }
    km_free(f->ctx, path);
    return status;
}

/* ---- config.json ---- */

/* transformers' name of the type weights are to be loaded in; NULL: what the file says stays. An
 * edit is float32, and would be rounded by a smaller type. */
static const char *dtype_name(const km_model *model, const km__save_list *list,
                              const km_save_options *options) {
    static const char *const names[] = {NULL, "float32", "float16", "bfloat16"};
    if (options->dtype != KM_SAVE_KEEP) {
        return names[options->dtype];
    }
    for (int64_t i = 0; i < list->n; i++) {
        if (km_container_is_replaced(model->container, list->items[i].name)) {
            return "float32";
        }
    }
    return NULL;
}

/* Under the key that is there: transformers 5 writes dtype, earlier ones torch_dtype. */
static bool set_dtype(json_t *object, const char *name, bool always) {
    const char *key = json_object_get(object, "torch_dtype") != NULL ? "torch_dtype" : "dtype";
    if (!always && json_object_get(object, key) == NULL) {
        return true;
    }
    return json_object_set_new(object, key, json_string(name)) == 0;
}

static km_status write_config(const folder *f, const km_model *model, const char *dtype,
                              km_error *err) {
    size_t n;
    const char *text = km_container_config_json(model->container, &n);
    if (dtype == NULL) {
        return write_file(f, "config.json", text, n, err);
    }
    json_t *root = NULL;
    char *made = NULL;
    km_status status = KM_OK;
    KM_GO(km_json_parse(&root, text, n, err));
    json_t *inner = json_object_get(root, "text_config");
    if (!set_dtype(root, dtype, true) || (inner != NULL && !set_dtype(inner, dtype, false))) {
        KM_FAIL(err, KM_ENOMEM, "config.json does not fit into memory");
    }
    n = json_dumpb(root, NULL, 0, JSON_INDENT(2));
    KM_GO(km_alloc((void **)&made, f->ctx, n, err));
    (void)json_dumpb(root, made, n, JSON_INDENT(2));
    KM_GO(write_file(f, "config.json", made, n, err));
done:
    km_free(f->ctx, made);
    json_decref(root);
    return status;
}

/* ---- the whole folder ---- */

/* As they were when the model was opened. */
static km_status write_tokenizer(const folder *f, const km_model *model, km_error *err) {
    size_t n;
    const char *text = km_container_tokenizer_json(model->container, &n);
    if (n > 0) {
        KM_TRY(write_file(f, "tokenizer.json", text, n, err));
    }
    text = km_container_tokenizer_config_json(model->container, &n);
    return n > 0 ? write_file(f, "tokenizer_config.json", text, n, err) : KM_OK;
}

static km_status write_all(const folder *f, const km_model *model, const km__save_list *list,
                           const char *dtype, km_error *err) {
    char *path = NULL;
    km_status status = KM_OK;
    KM_GO(write_config(f, model, dtype, err));
    KM_GO(write_tokenizer(f, model, err));
    for (int i = 0; i < N_COPIED; i++) {
        KM_GO(copy_file(f, COPIED[i], err));
    }
    KM_GO(join(&path, f->ctx, f->path, "model.safetensors", err));
    KM_GO(km_safetensors_write(path, f->ctx, list->items, list->n, err));
done:
    km_free(f->ctx, path);
    return status;
}

km_status km__save_folder(const km_model *model, const char *path, const km__save_list *list,
                          const km_save_options *options, km_error *err) {
    folder f = {model->ctx, km_container_path(model->container), NULL};
    km_status status = KM_OK;
    KM_GO(folder_begin(&f, path, err));
    KM_GO(write_all(&f, model, list, dtype_name(model, list, options), err));
    if (rename(f.path, path) != 0) {
        status = io_error(path, "put the written folder there", err);
        goto done;
    }
    f.path[0] = '\0';
done:
    folder_abort(&f);
    return status;
}
