/* tensors.c: what GGUF, safetensors and containers share: names in sorted order, sizes in bytes.
 *
 * Sorting finds duplicate names, which would make one of two tensors unreachable, and lets names
 * be looked up by halving. Sizes are products of numbers from the file, so each step is checked.
 */
#include "io/io_private.h"

#include <stdlib.h>
#include <string.h>

int km__shown(const char *text, size_t n) {
    size_t end = n < 64 ? n : 64;
    while (end > 0 && end < n && ((unsigned char)text[end] & 0xc0) == 0x80) {
        end--;
    }
    return (int)end;
}

static int compare_names(const void *a, const void *b) {
    const km_tensor_info *x = *(const km_tensor_info *const *)a;
    const km_tensor_info *y = *(const km_tensor_info *const *)b;
    return strcmp(x->name, y->name);
}

const char *km__tensors_sort(const km_tensor_info **by_name, int64_t n) {
    if (n > 1) {
        qsort(by_name, (size_t)n, sizeof(*by_name), compare_names);
    }
    for (int64_t i = 1; i < n; i++) {
        if (strcmp(by_name[i - 1]->name, by_name[i]->name) == 0) {
            return by_name[i]->name;
        }
    }
    return NULL;
}

const km_tensor_info *km__tensors_find(const km_tensor_info *const *by_name, int64_t n,
                                       const char *name) {
    int64_t low = 0;
    int64_t high = n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(by_name[middle]->name, name);
        if (order == 0) {
            return by_name[middle];
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

bool km__tensor_bytes(size_t *out, km_dtype dtype, const int64_t *dims, int n_dims) {
    const km_dtype_traits *traits = km_dtype_get(dtype);
    size_t elements = 1;
    for (int i = 0; i < n_dims; i++) {
        if (dims[i] < 0 || !km_size_mul(&elements, elements, (size_t)dims[i])) {
            return false;
        }
    }
    int64_t row = n_dims > 0 ? dims[n_dims - 1] : 1;
    if (row % traits->block_elements != 0 || elements > INT64_MAX / 8) {
        return false;
    }
    return km_size_mul(out, elements / (size_t)traits->block_elements, (size_t)traits->block_bytes);
}
