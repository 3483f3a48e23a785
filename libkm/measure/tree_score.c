/* Score continuations through a forest of tokens.
 *
 * The continuations are sorted by their tokens, so that those with a common beginning are
 * neighbours, a forest in depth-first order grows from one continuation to the next, and the chains
 * of a forest lie one after another in memory. A pass holds nodes (tokens), rows (nodes whose
 * output distribution is wanted) and wants (one a token asked of a row). Each row of logits is seen
 * once, by one worker, which fills that row's wants and nothing else; sums over an answer are taken
 * afterwards in token order. So neither the number of threads nor the order of rows can change a
 * bit. */
#include "tree_score.h"

#include <stdlib.h>
#include <string.h>

#include "tensor/kernels.h"

#define NONE (-1)

typedef struct tree_node {
    int64_t row, lens; /* index among wanted rows, among lens rows */
} tree_node;

/* One token asked of one row; token NONE asks only for the argmax. */
typedef struct tree_want {
    int64_t next; /* next want of the same row */
    int64_t item;
    int64_t position; /* in the answer */
    int32_t token;
    int32_t end; /* the row's argmax, where the item wants its end */
    bool is_argmax;
    double logp;
} tree_want;

typedef struct tree_item {
    int64_t first_want; /* its wants are consecutive */
    int64_t lens_next;  /* next item on the same lens row */
    int64_t lens_flags; /* where its n_layers + 1 flags start, NONE without lens */
} tree_item;

enum { FLAG_LEADS = 1, FLAG_ARGMAX = 2 };

typedef struct growing {
    void *items;
    int64_t n, capacity;
} growing;

typedef struct token_forest {
    const km__engine *engine;
    km__continuation **continuations; /* those of this pass, in order */
    growing ids, parents, nodes;      /* int32_t, int64_t, tree_node: one a node */
    growing path;                     /* int64_t: nodes of the latest continuation */
    growing rows, row_wants;          /* int64_t: node, first want */
    growing lens_rows, lens_items;    /* int64_t: node, first item */
    growing wants, items;             /* tree_want, tree_item */
    growing flags;                    /* unsigned char */
} token_forest;

static km_status grow(void **slot, growing *list, int64_t extra, size_t size, km_ctx *ctx,
                      km_error *err) {
    if (list->n + extra > list->capacity) {
        int64_t capacity =
            list->capacity * 2 > list->n + extra ? list->capacity * 2 : list->n + extra + 64;
        size_t bytes;
        if (!km_size_mul(&bytes, (size_t)capacity, size)) {
            return KM_SET(err, KM_ENOMEM, "a token tree of %lld entries", (long long)capacity);
        }
        KM_TRY(km_realloc(&list->items, ctx, bytes, err));
        list->capacity = capacity;
    }
    *slot = (char *)list->items + (size_t)list->n * size;
    list->n += extra;
    return KM_OK;
}

static km_status push_int64(growing *list, int64_t value, km_ctx *ctx, km_error *err) {
    void *slot;
    KM_TRY(grow(&slot, list, 1, sizeof value, ctx, err));
    *(int64_t *)slot = value;
    return KM_OK;
}

static tree_node *node_at(const token_forest *f, int64_t node) {
    return (tree_node *)f->nodes.items + node;
}

static tree_want *want_at(const token_forest *f, int64_t want) {
    return (tree_want *)f->wants.items + want;
}

static tree_item *item_at(const token_forest *f, int64_t item) {
    return (tree_item *)f->items.items + item;
}

static int64_t int64_at(const growing *list, int64_t index) {
    return ((const int64_t *)list->items)[index];
}

/* ---- sequences ---- */

/* How many tokens are computed: the prompt and all answer tokens but the last, and that one too
 * when what follows the answer is wanted. */
static int64_t computed_length(const km__continuation *c) {
    return c->n_prompt + c->n_answer - (c->want_end ? 0 : 1);
}

static int32_t token_at(const km__continuation *c, int64_t i) {
    return i < c->n_prompt ? c->prompt[i] : c->answer[i - c->n_prompt];
}

/* Computed tokens that two continuations begin with in common. */
static int64_t common_length(const km__continuation *a, const km__continuation *b) {
    int64_t n_a = computed_length(a), n_b = computed_length(b);
    int64_t n = n_a < n_b ? n_a : n_b, i = 0;
    if (a->prompt == b->prompt) {
        i = a->n_prompt < b->n_prompt ? a->n_prompt : b->n_prompt;
        i = i < n ? i : n;
    }
    while (i < n && token_at(a, i) == token_at(b, i)) {
        i++;
    }
    return i;
}

/* By tokens, the shorter first; equal ones as they were given, for they lie in one array. */
static int compare_sequences(const void *left, const void *right) {
    const km__continuation *a = *(km__continuation *const *)left;
    const km__continuation *b = *(km__continuation *const *)right;
    int64_t n_a = computed_length(a), n_b = computed_length(b), i = common_length(a, b);
    if (i < n_a && i < n_b) {
        return token_at(a, i) < token_at(b, i) ? -1 : 1;
    }
    return n_a != n_b ? (n_a < n_b ? -1 : 1) : (a > b) - (a < b);
}

/* The end of the pass that begins with continuation `begin`. Once half of batch_tokens is used, the
 * cut goes where the beginning that both sides share, and the next pass computes again, is shortest
 * in proportion. */
static int64_t pass_end(km__continuation *const *order, int64_t begin, int64_t n,
                        int64_t batch_tokens) {
    int64_t nodes = computed_length(order[begin]), cut = begin + 1;
    double least = 1;
    for (int64_t i = begin + 1; i < n; i++) {
        const int64_t common = common_length(order[i - 1], order[i]);
        const bool early = 2 * nodes < batch_tokens;
        const double cost = early ? 1 : (double)common / (double)nodes;
        if (cost <= least) {
            cut = i;
            least = cost;
        }
        nodes += computed_length(order[i]) - common;
        if (nodes > batch_tokens) {
            return cut;
        }
    }
    return n;
}

/* ---- growing the forest ---- */

static km_status add_node(int64_t *out, token_forest *f, int64_t parent, int32_t id,
                          km_error *err) {
    km_ctx *ctx = f->engine->ctx;
    void *slot;
    *out = f->nodes.n;
    KM_TRY(grow(&slot, &f->ids, 1, sizeof(int32_t), ctx, err));
    *(int32_t *)slot = id;
    KM_TRY(push_int64(&f->parents, parent, ctx, err));
    KM_TRY(grow(&slot, &f->nodes, 1, sizeof(tree_node), ctx, err));
    *(tree_node *)slot = (tree_node){NONE, NONE};
    return KM_OK;
}

static km_status add_want(token_forest *f, int64_t node, tree_want want, km_error *err) {
    km_ctx *ctx = f->engine->ctx;
    if (node_at(f, node)->row == NONE) {
        node_at(f, node)->row = f->rows.n;
        KM_TRY(push_int64(&f->rows, node, ctx, err));
        KM_TRY(push_int64(&f->row_wants, NONE, ctx, err));
    }
    int64_t *first = (int64_t *)f->row_wants.items + node_at(f, node)->row;
    void *slot;
    KM_TRY(grow(&slot, &f->wants, 1, sizeof want, ctx, err));
    want.next = *first;
    *first = f->wants.n - 1;
    *(tree_want *)slot = want;
    return KM_OK;
}

static km_status add_lens(token_forest *f, int64_t node, int64_t item, km_error *err) {
    km_ctx *ctx = f->engine->ctx;
    if (node_at(f, node)->lens == NONE) {
        node_at(f, node)->lens = f->lens_rows.n;
        KM_TRY(push_int64(&f->lens_rows, node, ctx, err));
        KM_TRY(push_int64(&f->lens_items, NONE, ctx, err));
    }
    int64_t *first = (int64_t *)f->lens_items.items + node_at(f, node)->lens;
    item_at(f, item)->lens_next = *first;
    item_at(f, item)->lens_flags = f->flags.n;
    *first = item;
    void *slot;
    int64_t n_flags = f->engine->n_layers + 1;
    KM_TRY(grow(&slot, &f->flags, n_flags, 1, ctx, err));
    memset(slot, 0, (size_t)n_flags);
    return KM_OK;
}

/* Leave in `path` the nodes of the continuation's computed tokens; the first `common` are there. */
static km_status extend_path(token_forest *f, const km__continuation *c, int64_t common,
                             km_error *err) {
    const int64_t length = computed_length(c);
    f->path.n = common;
    for (int64_t i = common; i < length; i++) {
        int64_t node, parent = i == 0 ? NONE : int64_at(&f->path, i - 1);
        KM_TRY(add_node(&node, f, parent, token_at(c, i), err));
        KM_TRY(push_int64(&f->path, node, f->engine->ctx, err));
    }
    return KM_OK;
}

static km_status add_continuation(token_forest *f, const km__continuation *c, int64_t common,
                                  km_error *err) {
    const int64_t item = f->items.n, length = computed_length(c);
    void *slot;
    KM_TRY(extend_path(f, c, common, err));
    KM_TRY(grow(&slot, &f->items, 1, sizeof(tree_item), f->engine->ctx, err));
    *(tree_item *)slot = (tree_item){f->wants.n, NONE, NONE};
    for (int64_t i = c->n_prompt - 1; i < length; i++) {
        const int64_t node = int64_at(&f->path, i), position = i - c->n_prompt + 1;
        tree_want want = {.next = NONE, .item = item, .position = position, .token = NONE};
        if (position < c->n_answer) {
            want.token = c->answer[position];
        }
        KM_TRY(add_want(f, node, want, err));
        if (position == 0 && c->want_lens) {
            KM_TRY(add_lens(f, node, item, err));
        }
    }
    return KM_OK;
}

/* ---- reading rows of logits ---- */

/* Whether one of 64 entries equals x; without a way out, so that the loop is done in vectors. */
static bool block_holds(const float *block, float x) {
    int equal = 0;
    for (int i = 0; i < 64; i++) {
        equal |= block[i] == x;
    }
    return equal != 0;
}

/* km_logits_argmax by way of the CPU's own maximum: the first entry equal to it. */
static int64_t find_argmax(const token_forest *f, const float *logits, int64_t n) {
    const float largest = km_ctx_kernels(f->engine->ctx)->max(logits, n);
    int64_t i = 0;
    while (i + 64 <= n && !block_holds(logits + i, largest)) {
        i += 64;
    }
    while (i < n - 1 && logits[i] != largest) {
        i++;
    }
    return i;
}

static unsigned char lens_flags(const km__continuation *c, const float *logits, int64_t best) {
    float own = logits[c->answer[0]];
    unsigned char flags = FLAG_LEADS;
    for (int64_t i = 0; i < c->n_rivals; i++) {
        if (!(own > logits[c->rivals[i]])) {
            flags = 0;
        }
    }
    if (best == c->answer[0]) {
        flags |= FLAG_ARGMAX;
    }
    return flags;
}

static void set_flags(token_forest *f, int64_t item, int32_t layer, const float *logits,
                      int64_t best) {
    unsigned char *flags = f->flags.items;
    flags[item_at(f, item)->lens_flags + layer] = lens_flags(f->continuations[item], logits, best);
}

static void see_lens_row(token_forest *f, int64_t index, int32_t layer, const float *logits,
                         int64_t n) {
    const int64_t best = find_argmax(f, logits, n);
    int64_t item = int64_at(&f->lens_items, index);
    for (; item != NONE; item = item_at(f, item)->lens_next) {
        set_flags(f, item, layer, logits, best);
    }
}

/* Workers come here: one call a wanted row. */
static km_status see_row(void *payload, int64_t index, int32_t layer, const float *logits,
                         int64_t n, km_error *err) {
    token_forest *f = payload;
    (void)err;
    if (layer < f->engine->n_layers) {
        see_lens_row(f, index, layer, logits, n);
        return KM_OK;
    }
    const double lse = f->engine->logsumexp(f->engine->self, logits, n);
    const int64_t best = find_argmax(f, logits, n);
    for (int64_t w = int64_at(&f->row_wants, index); w != NONE; w = want_at(f, w)->next) {
        tree_want *want = want_at(f, w);
        km__continuation *c = f->continuations[want->item];
        want->end = (int32_t)best;
        want->is_argmax = want->token == best;
        want->logp = want->token == NONE ? 0 : (double)logits[want->token] - lse;
        if (want->position == 0 && c->want_first) {
            c->first_rank = km_logits_rank(logits, n, want->token);
        }
        if (want->position == 0 && c->want_lens) {
            set_flags(f, want->item, layer, logits, best);
        }
    }
    return KM_OK;
}

/* Whether a flag of one of the row's items is set in every layer above `layer`. */
static bool lens_open(void *payload, int64_t index, int32_t layer) {
    const token_forest *f = payload;
    for (int64_t i = int64_at(&f->lens_items, index); i != NONE; i = item_at(f, i)->lens_next) {
        const unsigned char *flags = (const unsigned char *)f->flags.items;
        unsigned char common = FLAG_LEADS | FLAG_ARGMAX;
        for (int32_t above = f->engine->n_layers; above > layer; above--) {
            common &= flags[item_at(f, i)->lens_flags + above];
        }
        if (common != 0) {
            return true;
        }
    }
    return false;
}

/* ---- results ---- */

/* First layer from which `flag` is set without a gap up to the output; NONE when not set there. */
static int32_t first_lasting_layer(const unsigned char *flags, int32_t n_layers,
                                   unsigned char flag) {
    int32_t first = NONE;
    for (int32_t layer = n_layers; layer >= 0 && (flags[layer] & flag) != 0; layer--) {
        first = layer;
    }
    return first;
}

static void finish_item(const token_forest *f, int64_t item) {
    km__continuation *c = f->continuations[item];
    const tree_item *from = item_at(f, item);
    const tree_want *wants = want_at(f, from->first_want);
    c->logp = 0;
    c->greedy = true;
    for (int64_t i = 0; i < c->n_answer; i++) {
        c->logp += wants[i].logp;
        c->greedy = c->greedy && wants[i].is_argmax;
        if (c->logprobs != NULL) {
            c->logprobs[i] = wants[i].logp;
        }
        if (c->is_argmax != NULL) {
            c->is_argmax[i] = wants[i].is_argmax;
        }
    }
    c->first_logp = wants[0].logp;
    c->end = c->want_end ? wants[c->n_answer].end : NONE;
    if (from->lens_flags != NONE) {
        const unsigned char *flags = (const unsigned char *)f->flags.items + from->lens_flags;
        c->lead_layer = first_lasting_layer(flags, f->engine->n_layers, FLAG_LEADS);
        c->argmax_layer = first_lasting_layer(flags, f->engine->n_layers, FLAG_ARGMAX);
    }
}

/* ---- passes ---- */

enum { N_LISTS = 11 };

static void list_all(growing *lists[N_LISTS], token_forest *f) {
    growing *all[N_LISTS] = {&f->ids,       &f->parents,    &f->nodes, &f->path,
                             &f->rows,      &f->row_wants,  &f->wants, &f->items,
                             &f->lens_rows, &f->lens_items, &f->flags};
    memcpy(lists, all, sizeof all);
}

static void forest_reset(token_forest *f) {
    growing *lists[N_LISTS];
    list_all(lists, f);
    for (int i = 0; i < N_LISTS; i++) {
        lists[i]->n = 0;
    }
}

static void forest_clear(token_forest *f) {
    growing *lists[N_LISTS];
    list_all(lists, f);
    for (int i = 0; i < N_LISTS; i++) {
        km_free(f->engine->ctx, lists[i]->items);
    }
}

static km_status run_pass(token_forest *f, km_error *err) {
    km_forward_request request = {
        .tree = {f->ids.items, f->parents.items, f->ids.n},
        .rows = f->rows.items,
        .n_rows = f->rows.n,
        .lens_rows = f->lens_rows.items,
        .n_lens_rows = f->lens_rows.n,
        .on_logits = see_row,
        .payload = f,
        .lens_open = lens_open,
    };
    KM_TRY(f->engine->forward(f->engine->self, &request, err));
    for (int64_t i = 0; i < f->items.n; i++) {
        finish_item(f, i);
    }
    return KM_OK;
}

static km_status model_forward(const void *self, const km_forward_request *request, km_error *err) {
    return km_model_forward(self, request, err);
}

static double model_logsumexp(const void *self, const float *logits, int64_t n) {
    return km_logits_logsumexp(self, logits, n);
}

km__engine km__engine_of_model(const km_model *model) {
    return (km__engine){km_model_ctx(model), km_model_config(model)->n_layers, model, model_forward,
                        model_logsumexp};
}

int64_t km__default_batch_tokens(const km_model *model) {
    enum { MOST = 2048, LEAST = 64 };
    const km_config *c = km_model_config(model);
    const int64_t width = 3 * (int64_t)c->d_model + 2 * (int64_t)c->d_ffn +
                          (int64_t)(c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    const int64_t fits = (int64_t)(km_memory_available() / 4 / sizeof(float)) / width;
    return fits > MOST ? MOST : fits < LEAST ? LEAST : fits;
}

/* Pointers to the items, sorted; the caller frees *out. */
static km_status sort_items(km__continuation ***out, km__continuation *items, int64_t n,
                            km_ctx *ctx, km_error *err) {
    KM_TRY(km_alloc_array((void **)out, ctx, n, sizeof **out, err));
    for (int64_t i = 0; i < n; i++) {
        (*out)[i] = &items[i];
        if (items[i].n_prompt < 1 || items[i].n_answer < 1) {
            return KM_SET(err, KM_EINVAL, "a prompt and an answer need at least one token each");
        }
    }
    qsort(*out, (size_t)n, sizeof **out, compare_sequences);
    return KM_OK;
}

km_status km__score_continuations(km__continuation *items, int64_t n, const km__engine *engine,
                                  int64_t batch_tokens, km_tick *tick, int64_t base,
                                  km_error *err) {
    km_status status = KM_OK;
    token_forest forest = {.engine = engine};
    km__continuation **order = NULL;
    KM_GO(sort_items(&order, items, n, engine->ctx, err));
    for (int64_t begin = 0; begin < n;) {
        const int64_t end = pass_end(order, begin, n, batch_tokens);
        forest_reset(&forest);
        forest.continuations = order + begin;
        for (int64_t i = begin; i < end; i++) {
            const int64_t common = i == begin ? 0 : common_length(order[i - 1], order[i]);
            KM_GO(add_continuation(&forest, order[i], common, err));
        }
        KM_GO(run_pass(&forest, err));
        begin = end;
        KM_GO(km_tick_update(tick, base + begin, err));
    }
done:
    forest_clear(&forest);
    km_free(engine->ctx, order);
    return status;
}
