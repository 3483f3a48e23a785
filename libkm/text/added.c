/* added.c: finding added tokens (control and user-defined) in text: leftmost, then longest.
 *
 * The tokens are sorted; a match narrows the range of those that agree with the text so far, byte
 * by byte. Only positions whose byte starts some token cost more than a look-up. */
#include <stdlib.h>
#include <string.h>

#include "text/text_private.h"

/* Bounds the work at one position of the text; real tokens have up to a hundred bytes. */
#define MAX_BYTES 1024

static int compare(const void *a, const void *b) {
    const km__added *x = a;
    const km__added *y = b;
    size_t common = x->n < y->n ? x->n : y->n;
    int order = memcmp(x->text, y->text, common);
    return order != 0 ? order : (x->n > y->n) - (x->n < y->n);
}

km_status km__added_set_index(km__added_set *set, km_error *err) {
    qsort(set->items, (size_t)set->n, sizeof set->items[0], compare);
    int64_t at = 0;
    for (int byte = 0; byte < 256; byte++) {
        set->first[byte] = at;
        while (at < set->n && (unsigned char)set->items[at].text[0] == byte) {
            at++;
        }
    }
    set->first[256] = set->n;
    for (int64_t i = 0; i < set->n; i++) {
        const km__added *item = &set->items[i];
        if (item->n > MAX_BYTES) {
            return KM_SET(err, KM_EUNSUPPORTED, "added token %d has %zu bytes; at most %d",
                          item->id, item->n, MAX_BYTES);
        }
        if (i > 0 && compare(item - 1, item) == 0) {
            return KM_SET(err, KM_EFORMAT, "added token %d repeats token %d", item->id,
                          item[-1].id);
        }
    }
    return KM_OK;
}

/* First index in [low, high) whose byte at `depth` is at least `byte` (shorter texts sort first).
 */
static int64_t lower_bound(const km__added *items, int64_t low, int64_t high, size_t depth,
                           int byte) {
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        const km__added *item = &items[middle];
        if (item->n <= depth || (unsigned char)item->text[depth] < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static const km__added *longest_at(const km__added_set *set, const char *text, size_t n) {
    unsigned char byte = (unsigned char)text[0];
    int64_t low = set->first[byte];
    int64_t high = set->first[byte + 1];
    const km__added *best = NULL;
    for (size_t depth = 1; low < high; depth++) {
        if (set->items[low].n == depth) {
            best = &set->items[low];
        }
        if (depth == n) {
            break;
        }
        int next = (unsigned char)text[depth];
        low = lower_bound(set->items, low, high, depth, next);
        high = lower_bound(set->items, low, high, depth, next + 1);
    }
    return best;
}

const km__added *km__added_set_find(const km__added_set *set, const char *text, size_t n,
                                    size_t from, size_t *start) {
    for (size_t at = from; set->n > 0 && at < n; at++) {
        unsigned char byte = (unsigned char)text[at];
        if (set->first[byte] == set->first[byte + 1]) {
            continue;
        }
        const km__added *found = longest_at(set, text + at, n - at);
        if (found != NULL) {
            *start = at;
            return found;
        }
    }
    return NULL;
}
