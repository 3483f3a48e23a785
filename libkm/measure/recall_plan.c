/* The plan of one relation: answers tokenised once, each fact's members checked and indexed. */
#include "recall.h"

#include <string.h>

/* Open addressing from text to pool index; -1 marks a free slot. */
typedef struct text_index {
    int64_t *slots;
    uint64_t mask;
} text_index;

static uint64_t hash_text(const char *text) {
    uint64_t hash = 14695981039346656037ULL; /* FNV-1a */
    for (; *text != '\0'; text++) {
        hash = (hash ^ (unsigned char)*text) * 1099511628211ULL;
    }
    return hash;
}

static int64_t *find_slot(const text_index *index, const km__recall_text *pool, const char *text) {
    uint64_t at = hash_text(text) & index->mask;
    while (index->slots[at] >= 0 && strcmp(pool[index->slots[at]].text, text) != 0) {
        at = (at + 1) & index->mask;
    }
    return &index->slots[at];
}

static km_status arena_array(void *out, km_arena *arena, int64_t n, size_t size, km_error *err) {
    size_t bytes;
    if (n < 0 || !km_size_mul(&bytes, (size_t)n, size)) {
        return KM_SET(err, KM_ENOMEM, "an array of %lld entries", (long long)n);
    }
    return km_arena_alloc(out, arena, bytes, err);
}

static km_status encode(const int32_t **ids, int64_t *n_ids, km_arena *arena,
                        const km_tokenizer *tokenizer, const char *text, km_bos bos,
                        km_error *err) {
    km_tokens tokens = KM_TOKENS_INIT;
    km_encode_options options = {bos, false};
    int32_t *copy = NULL;
    km_status status = KM_OK;
    KM_GO(km_tokenizer_encode(&tokens, tokenizer, text, strlen(text), &options, err));
    KM_GO(arena_array(&copy, arena, tokens.n, sizeof *copy, err));
    for (int64_t i = 0; i < tokens.n; i++) {
        copy[i] = tokens.items[i].id;
    }
    *ids = copy;
    *n_ids = tokens.n;
done:
    km_tokens_clear(&tokens);
    return status;
}

static km_status check_fact(const km_recall_relation *relation, const km_recall_fact *fact,
                            km_error *err) {
    if (fact->id == NULL || fact->subject == NULL || fact->n_answers < 1 ||
        fact->n_candidates < 0 || fact->shuffled < -1 || fact->shuffled >= relation->n_facts) {
        return KM_SET(err, KM_EINVAL,
                      "fact '%s': it needs an id, a subject, an answer and, if "
                      "shuffled, a partner in [0, %lld)",
                      fact->id == NULL ? "?" : fact->id, (long long)relation->n_facts);
    }
    return KM_OK;
}

static km_status check_templates(const km_recall_relation *relation, km_error *err) {
    for (int t = 0; t < relation->n_templates; t++) {
        const char *first = strstr(relation->templates[t], "{}");
        if (first == NULL || strstr(first + 2, "{}") != NULL) {
            return KM_SET(err, KM_EINVAL, "template %d must hold \"{}\" once: \"%.200s\"", t,
                          relation->templates[t]);
        }
    }
    if (relation->n_templates < 1 || relation->subjectless == NULL) {
        return KM_SET(err, KM_EINVAL, "at least one template and a subjectless text are needed");
    }
    return KM_OK;
}

/* Index of `text` in the pool, added and tokenised when new. */
static km_status intern(int64_t *out, km__recall_plan *plan, text_index *index, const char *text,
                        km_error *err) {
    int64_t *slot = find_slot(index, plan->pool, text);
    if (*slot < 0) {
        size_t n = strlen(text);
        char *spaced;
        KM_TRY(km_arena_alloc((void **)&spaced, plan->arena, n + 2, err));
        spaced[0] = ' ';
        memcpy(spaced + 1, text, n + 1);
        km__recall_text *entry = &plan->pool[plan->n_pool];
        *entry = (km__recall_text){text, (int64_t)n, NULL, 0};
        KM_TRY(encode(&entry->ids, &entry->n_ids, plan->arena, km_model_tokenizer(plan->model),
                      spaced, KM_BOS_NEVER, err));
        if (n == 0 || entry->n_ids == 0) {
            return KM_SET(err, KM_EINVAL, "an answer has no text");
        }
        *slot = plan->n_pool++;
    }
    *out = *slot;
    return KM_OK;
}

/* Add one member; a text given twice for one fact would be judged against itself. */
static km_status add_member(km__recall_plan *plan, text_index *index, int64_t *stamps,
                            int64_t *pool, int64_t member, int64_t fact, const char *text,
                            km_error *err) {
    KM_TRY(intern(&pool[member], plan, index, text, err));
    if (stamps[pool[member]] == fact + 1) {
        return KM_SET(err, KM_EINVAL, "\"%.200s\" is given twice among answers and candidates",
                      text);
    }
    stamps[pool[member]] = fact + 1;
    return KM_OK;
}

static km_status add_members(km__recall_plan *plan, text_index *index, int64_t *stamps, int64_t i,
                             km_error *err) {
    const km_recall_fact *fact = &plan->relation->facts[i];
    km__recall_members *members = &plan->members[i];
    int64_t *pool;
    *members = (km__recall_members){.n_answers = fact->n_answers,
                                    .n = (int64_t)fact->n_answers + fact->n_candidates,
                                    .partner = -1};
    KM_TRY(arena_array(&pool, plan->arena, members->n, sizeof *pool, err));
    for (int64_t m = 0; m < members->n; m++) {
        const char *text =
            m < members->n_answers ? fact->answers[m] : fact->candidates[m - members->n_answers];
        KM_TRY(add_member(plan, index, stamps, pool, m, i, text, err));
    }
    members->pool = pool;
    return KM_OK;
}

static bool is_blank_token(const km_tokenizer *tokenizer, int32_t id) {
    size_t n;
    const char *piece = km_tokenizer_piece(tokenizer, id, &n);
    for (size_t i = 0; piece != NULL && i < n; i++) {
        if (piece[i] != ' ' && piece[i] != '\t' && piece[i] != '\n' && piece[i] != '\r') {
            return false;
        }
    }
    return true;
}

static km_status find_rivals(km__recall_plan *plan, int64_t i, km_error *err) {
    km__recall_members *members = &plan->members[i];
    int32_t *rivals;
    int32_t first = plan->pool[members->pool[0]].ids[0];
    KM_TRY(arena_array(&rivals, plan->arena, members->n, sizeof *rivals, err));
    for (int64_t m = members->n_answers; m < members->n; m++) {
        rivals[members->n_rivals] = plan->pool[members->pool[m]].ids[0];
        members->collision = members->collision || rivals[members->n_rivals] == first;
        members->n_rivals++;
    }
    members->rivals = rivals;
    members->lone_blank = is_blank_token(km_model_tokenizer(plan->model), first);
    return KM_OK;
}

static km_status find_partner(km__recall_plan *plan, int64_t i, km_error *err) {
    const km_recall_fact *fact = &plan->relation->facts[i];
    km__recall_members *members = &plan->members[i];
    if (fact->shuffled < 0) {
        return KM_OK;
    }
    int64_t wanted = plan->members[fact->shuffled].pool[0];
    for (int64_t m = members->n_answers; m < members->n; m++) {
        if (members->pool[m] == wanted) {
            members->partner = m;
            return KM_OK;
        }
    }
    return KM_SET(err, KM_EINVAL, "the shuffled partner's answer is not among the candidates");
}

/* Pool index of the commonest printed answer; the earliest fact decides between equals. */
static km_status find_commonest(int64_t *out, const km__recall_plan *plan, km_error *err) {
    int64_t *counts;
    KM_TRY(arena_array(&counts, plan->arena, plan->n_pool, sizeof *counts, err));
    memset(counts, 0, (size_t)plan->n_pool * sizeof *counts);
    *out = -1;
    for (int64_t i = 0; i < plan->relation->n_facts; i++) {
        counts[plan->members[i].pool[0]]++;
    }
    for (int64_t i = 0; i < plan->relation->n_facts; i++) {
        int64_t candidate = plan->members[i].pool[0];
        if (*out < 0 || counts[candidate] > counts[*out]) {
            *out = candidate;
        }
    }
    return KM_OK;
}

static void mark_commonest(km__recall_members *members, int64_t commonest) {
    for (int64_t m = 0; m < members->n_answers; m++) {
        members->commonest = members->commonest || members->pool[m] == commonest;
    }
}

static km_status count_texts(int64_t *out, const km_recall_relation *relation, km_error *err) {
    *out = 0;
    for (int64_t i = 0; i < relation->n_facts; i++) {
        KM_TRY(check_fact(relation, &relation->facts[i], err));
        *out += (int64_t)relation->facts[i].n_answers + relation->facts[i].n_candidates;
    }
    return KM_OK;
}

static km_status make_index(text_index *index, km__recall_plan *plan, int64_t n_texts,
                            km_error *err) {
    uint64_t capacity = 16;
    while (capacity < 2 * (uint64_t)n_texts) {
        capacity *= 2;
    }
    index->mask = capacity - 1;
    KM_TRY(arena_array(&index->slots, plan->arena, (int64_t)capacity, sizeof(int64_t), err));
    memset(index->slots, 0xff, capacity * sizeof(int64_t));
    return arena_array(&plan->pool, plan->arena, n_texts, sizeof *plan->pool, err);
}

static km_status fill_plan(km__recall_plan *plan, km_error *err) {
    const km_recall_relation *relation = plan->relation;
    text_index index;
    int64_t n_texts, commonest;
    int64_t *stamps;
    KM_TRY(check_templates(relation, err));
    KM_TRY(count_texts(&n_texts, relation, err));
    KM_TRY(make_index(&index, plan, n_texts, err));
    KM_TRY(arena_array(&stamps, plan->arena, n_texts, sizeof *stamps, err));
    memset(stamps, 0, (size_t)n_texts * sizeof *stamps);
    KM_TRY(arena_array(&plan->members, plan->arena, relation->n_facts, sizeof *plan->members, err));
    for (int64_t i = 0; i < relation->n_facts; i++) {
        km_status status = add_members(plan, &index, stamps, i, err);
        if (status != KM_OK) {
            km_error_prefix(err, "fact '%s'", relation->facts[i].id);
            return status;
        }
    }
    KM_TRY(find_commonest(&commonest, plan, err));
    for (int64_t i = 0; i < relation->n_facts; i++) {
        mark_commonest(&plan->members[i], commonest);
        KM_TRY(find_rivals(plan, i, err));
        km_status status = find_partner(plan, i, err);
        if (status != KM_OK) {
            km_error_prefix(err, "fact '%s'", relation->facts[i].id);
            return status;
        }
    }
    return arena_array(&plan->subjectless, plan->arena, relation->n_templates * plan->n_pool,
                       sizeof(double), err);
}

km_status km__recall_plan_init(km__recall_plan *plan, const km_model *model,
                               const km_recall_relation *relation, const km_recall_options *options,
                               km_error *err) {
    *plan = (km__recall_plan){.model = model, .relation = relation, .options = *options};
    KM_TRY(km_arena_new(&plan->arena, km_model_ctx(model), err));
    return fill_plan(plan, err);
}

void km__recall_plan_clear(km__recall_plan *plan) {
    km_arena_free(plan->arena);
    plan->arena = NULL;
}

km_status km__recall_prompt_make(km__recall_prompt *out, km_arena *arena,
                                 const km__recall_plan *plan, const char *template_text,
                                 const char *subject, km_error *err) {
    const char *hole = strstr(template_text, "{}");
    size_t before = (size_t)(hole - template_text);
    size_t inside = strlen(subject);
    size_t after = strlen(hole + 2);
    char *text;
    KM_TRY(km_arena_alloc((void **)&text, arena, before + inside + after + 1, err));
    memcpy(text, template_text, before);
    memcpy(text + before, subject, inside);
    memcpy(text + before + inside, hole + 2, after + 1);
    out->text = text;
    KM_TRY(encode(&out->ids, &out->n_ids, arena, km_model_tokenizer(plan->model), text,
                  plan->options.bos, err));
    if (out->n_ids == 0) {
        return KM_SET(err, KM_EINVAL, "the prompt \"%.200s\" has no tokens", text);
    }
    return KM_OK;
}
