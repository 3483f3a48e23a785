/* model_files.h: small GGUF and safetensors files built in memory, and folders to put them in. */
#ifndef KM_TESTS_MODEL_FILES_H
#define KM_TESTS_MODEL_FILES_H

#include <dirent.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "km_test.h"
#include "model/config_private.h"

/* ---- bytes ---- */

typedef struct bytes {
    unsigned char *data;
    size_t n, capacity;
} bytes;

static inline void put(bytes *b, const void *data, size_t n) {
    if (b->n + n > b->capacity) {
        b->capacity = 2 * (b->n + n) + 64;
        b->data = realloc(b->data, b->capacity);
        assert_non_null(b->data);
    }
    if (n > 0) {
        memcpy(b->data + b->n, data, n);
    }
    b->n += n;
}

static inline void put_u32(bytes *b, uint32_t value) {
    put(b, &value, sizeof(value));
}

static inline void put_u64(bytes *b, uint64_t value) {
    put(b, &value, sizeof(value));
}

static inline void put_float(bytes *b, float value) {
    put(b, &value, sizeof(value));
}

static inline void put_text(bytes *b, const char *text) {
    put(b, text, strlen(text));
}

static inline void put_string(bytes *b, const char *text) {
    put_u64(b, strlen(text));
    put_text(b, text);
}

static inline void put_padding(bytes *b, size_t alignment) {
    static const unsigned char ZEROS[64];
    put(b, ZEROS, (alignment - b->n % alignment) % alignment);
}

static inline void clear(bytes *b) {
    free(b->data);
    *b = (bytes){NULL, 0, 0};
}

/* ---- GGUF; type numbers as in the format ---- */

enum { U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 };

static inline void gguf_head(bytes *b, uint64_t n_tensors, uint64_t n_keys) {
    put_text(b, "GGUF");
    put_u32(b, 3);
    put_u64(b, n_tensors);
    put_u64(b, n_keys);
}

static inline void key_u32(bytes *b, const char *key, uint32_t value) {
    put_string(b, key);
    put_u32(b, U32);
    put_u32(b, value);
}

static inline void key_float(bytes *b, const char *key, float value) {
    put_string(b, key);
    put_u32(b, F32);
    put_float(b, value);
}

static inline void key_string(bytes *b, const char *key, const char *value) {
    put_string(b, key);
    put_u32(b, STRING);
    put_string(b, value);
}

static inline void key_bool(bytes *b, const char *key, unsigned char value) {
    put_string(b, key);
    put_u32(b, BOOL);
    put(b, &value, 1);
}

static inline void key_array(bytes *b, const char *key, uint32_t element, uint64_t n) {
    put_string(b, key);
    put_u32(b, ARRAY);
    put_u32(b, element);
    put_u64(b, n);
}

/* rows 0: a vector of cols. */
static inline void gguf_tensor(bytes *b, const char *name, int64_t rows, int64_t cols,
                               uint32_t type, uint64_t offset) {
    put_string(b, name);
    put_u32(b, rows > 0 ? 2 : 1);
    put_u64(b, (uint64_t)cols);
    if (rows > 0) {
        put_u64(b, (uint64_t)rows);
    }
    put_u32(b, type);
    put_u64(b, offset);
}

/* ---- a folder of its own for each test ---- */

typedef struct folder {
    char path[64];
} folder;

static inline folder folder_new(void) {
    folder f;
    strcpy(f.path, "/tmp/km-test-XXXXXX");
    assert_non_null(mkdtemp(f.path));
    return f;
}

static inline const char *folder_path(char out[512], const folder *f, const char *name) {
    snprintf(out, 512, "%s/%s", f->path, name);
    return out;
}

static inline void folder_write(const folder *f, const char *name, const void *data, size_t n) {
    char path[512];
    FILE *file = fopen(folder_path(path, f, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static inline void folder_write_text(const folder *f, const char *name, const char *text) {
    folder_write(f, name, text, strlen(text));
}

static inline void folder_remove(const folder *f) {
    DIR *dir = opendir(f->path);
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        char path[512];
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            (void)unlink(folder_path(path, f, entry->d_name));
            (void)rmdir(path);
        }
    }
    closedir(dir);
    assert_int_equal(rmdir(f->path), 0);
}

#endif
