/* merge.c: merging adjacent symbols, best pair first, with a linked list and a binary heap.
 *
 * Each merge adds at most two candidates, and a candidate is checked against the list when it comes
 * up (its symbols may have merged meanwhile), so a word of n symbols costs O(n log n) whatever it
 * holds. Order: lowest rank, then leftmost, as in `tokenizers`. Without a list of merges the rank
 * follows from the score of what is made; ties then go to the longer left part, the longer right
 * part and the lower id, the order in which `transformers` writes merges for such a vocabulary. */
#include "text/text_private.h"

#define LENGTH_CAP 0x7FFF

void km__scratch_clear(km__scratch *scratch) {
    km_free(scratch->ctx, scratch->symbols);
    km_free(scratch->ctx, scratch->heap);
    km_free(scratch->ctx, scratch->text);
    km_free(scratch->ctx, scratch->map);
    km__nfc_clear(&scratch->nfc);
    *scratch = (km__scratch){
        .ctx = scratch->ctx, .nfc = {.ctx = scratch->ctx}, .well_formed = scratch->well_formed};
}

/* Grow a block of `size`-byte elements to hold `needed`. */
static km_status grow(void **block, int64_t *capacity, km_ctx *ctx, int64_t needed, size_t size,
                      km_error *err) {
    if (needed <= *capacity) {
        return KM_OK;
    }
    int64_t wanted = *capacity < 64 ? 64 : *capacity;
    while (wanted < needed) {
        wanted += wanted / 2;
    }
    size_t bytes;
    if (!km_size_mul(&bytes, (size_t)wanted, size)) {
        return KM_SET(err, KM_ENOMEM, "%lld symbols do not fit into memory", (long long)wanted);
    }
    KM_TRY(km_realloc(block, ctx, bytes, err));
    *capacity = wanted;
    return KM_OK;
}

km_status km__scratch_reserve_text(km__scratch *scratch, size_t n, km_error *err) {
    if (n > scratch->text_capacity) {
        void *block = scratch->text;
        KM_TRY(km_realloc(&block, scratch->ctx, n, err));
        scratch->text = block;
        scratch->text_capacity = n;
    }
    return KM_OK;
}

km_status km__scratch_reserve_map(km__scratch *scratch, size_t n, km_error *err) {
    if (n > scratch->map_capacity) {
        void *block = scratch->map;
        size_t bytes;
        if (!km_size_mul(&bytes, n, sizeof(int64_t))) {
            return KM_SET(err, KM_ENOMEM, "%zu offsets do not fit into memory", n);
        }
        KM_TRY(km_realloc(&block, scratch->ctx, bytes, err));
        scratch->map = block;
        scratch->map_capacity = n;
    }
    return KM_OK;
}

km_status km__scratch_push(km__scratch *scratch, const km__symbol *symbol, km_error *err) {
    void *block = scratch->symbols;
    KM_TRY(grow(&block, &scratch->symbol_capacity, scratch->ctx, scratch->n_symbols + 1,
                sizeof(km__symbol), err));
    scratch->symbols = block;
    int32_t at = (int32_t)scratch->n_symbols++;
    km__symbol *added = &scratch->symbols[at];
    *added = *symbol;
    added->prev = at - 1;
    added->next = -1;
    if (at > 0) {
        added[-1].next = at;
    }
    return KM_OK;
}

static bool before(const km__candidate *a, const km__candidate *b) {
    if (a->key != b->key) {
        return a->key < b->key;
    }
    return a->made != b->made ? a->made < b->made : a->left < b->left;
}

static void sift_down(km__candidate *heap, int64_t n, int64_t at) {
    km__candidate moving = heap[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        child += child + 1 < n && before(&heap[child + 1], &heap[child]);
        if (!before(&heap[child], &moving)) {
            break;
        }
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

static void sift_up(km__candidate *heap, int64_t at) {
    km__candidate moving = heap[at];
    while (at > 0 && before(&moving, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = moving;
}

static uint64_t capped(const char *text, int32_t begin, int32_t end) {
    int64_t count = km__utf8_count(text + begin, (size_t)(end - begin));
    return LENGTH_CAP - (uint64_t)(count < LENGTH_CAP ? count : LENGTH_CAP);
}

/* Rank of joining two symbols by what they make: its priority, then the lengths of the parts. */
static bool rank_by_text(km__candidate *out, const km_tokenizer *tokenizer, const char *word,
                         const km__symbol *left, const km__symbol *right) {
    size_t n = (size_t)(right->end - left->begin);
    if (left->fixed || right->fixed || n > tokenizer->longest) {
        return false;
    }
    int32_t made = km__text_table_find(&tokenizer->ids, &tokenizer->keys, word + left->begin, n);
    if (made < 0) {
        return false;
    }
    out->made = made;
    out->key = tokenizer->priority[made] << 30 | capped(word, left->begin, left->end) << 15 |
               capped(word, right->begin, right->end);
    return true;
}

/* Put the pair of `at` and its right neighbour into the last place of the heap's array. */
static km_status add_candidate(km__scratch *scratch, const km_tokenizer *tokenizer,
                               const char *word, int32_t at, km_error *err) {
    const km__symbol *left = &scratch->symbols[at];
    if (left->next < 0) {
        return KM_OK;
    }
    const km__symbol *right = &scratch->symbols[left->next];
    km__candidate candidate = {.left = at, .end = right->end};
    if (tokenizer->merges.slots != NULL) {
        const km__merge *merge = km__merge_table_find(&tokenizer->merges, left->id, right->id);
        if (merge == NULL) {
            return KM_OK;
        }
        candidate.key = (uint64_t)merge->rank;
        candidate.made = merge->made;
    } else if (tokenizer->priority == NULL ||
               !rank_by_text(&candidate, tokenizer, word, left, right)) {
        return KM_OK;
    }
    void *block = scratch->heap;
    KM_TRY(grow(&block, &scratch->heap_capacity, scratch->ctx, scratch->n_heap + 1,
                sizeof(km__candidate), err));
    scratch->heap = block;
    scratch->heap[scratch->n_heap++] = candidate;
    return KM_OK;
}

/* As add_candidate, keeping the heap in order. */
static km_status push_candidate(km__scratch *scratch, const km_tokenizer *tokenizer,
                                const char *word, int32_t at, km_error *err) {
    int64_t n = scratch->n_heap;
    KM_TRY(add_candidate(scratch, tokenizer, word, at, err));
    if (scratch->n_heap > n) {
        sift_up(scratch->heap, n);
    }
    return KM_OK;
}

static km__candidate pop(km__scratch *scratch) {
    km__candidate best = scratch->heap[0];
    scratch->heap[0] = scratch->heap[--scratch->n_heap];
    if (scratch->n_heap > 0) {
        sift_down(scratch->heap, scratch->n_heap, 0);
    }
    return best;
}

/* Whether a candidate's two symbols are still the ones it was made for: the same bytes, as a pair
 * that starts at one symbol and spans the same bytes is the same pair. */
static bool current(const km__scratch *scratch, const km__candidate *candidate) {
    const km__symbol *left = &scratch->symbols[candidate->left];
    return left->id >= 0 && left->next >= 0 && scratch->symbols[left->next].end == candidate->end;
}

static void join(km__symbol *symbols, int32_t at, int32_t made) {
    km__symbol *left = &symbols[at];
    km__symbol *right = &symbols[left->next];
    left->id = made;
    left->end = right->end;
    left->next = right->next;
    right->id = -1;
    if (left->next >= 0) {
        symbols[left->next].prev = at;
    }
}

km_status km__merge_word(km__scratch *scratch, const km_tokenizer *tokenizer, const char *word,
                         km_error *err) {
    scratch->n_heap = 0;
    for (int64_t i = 0; i + 1 < scratch->n_symbols; i++) {
        KM_TRY(add_candidate(scratch, tokenizer, word, (int32_t)i, err));
    }
    for (int64_t i = scratch->n_heap / 2; i-- > 0;) {
        sift_down(scratch->heap, scratch->n_heap, i);
    }
    while (scratch->n_heap > 0) {
        km__candidate best = pop(scratch);
        if (!current(scratch, &best)) {
            continue;
        }
        join(scratch->symbols, best.left, best.made);
        int32_t prev = scratch->symbols[best.left].prev;
        if (prev >= 0) {
            KM_TRY(push_candidate(scratch, tokenizer, word, prev, err));
        }
        KM_TRY(push_candidate(scratch, tokenizer, word, best.left, err));
    }
    return KM_OK;
}
