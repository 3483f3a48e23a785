/* km_memorization_run: whole-answer recall of one relation.
 *
 * First come the distinct answers under each template's prompt without its subject, then every case
 * (fact x template) in windows, template by template so that facts share the template's beginning.
 * Within a window the continuations are packed into passes of at most
 * batch_tokens distinct tokens (tree_score.h); rows are written when a window is done. */
#include "recall.h"

#include <string.h>

/* Cases kept in flight: their prompts and results are the only memory that grows with facts. */
#define WINDOW_CASES 1024

typedef struct recall_run {
    km__recall_plan plan;
    km__engine engine;
    km_tick tick;
    int64_t done; /* continuations finished */
    km_table *table;
} recall_run;

/* Buffers of one window, in an arena that is reset after it. */
typedef struct recall_window {
    km_arena *arena;
    km__recall_case *cases;
    km__continuation *items;
} recall_window;

static km_status window_alloc(recall_window *window, int64_t n_cases, int64_t n_items,
                              km_error *err) {
    KM_TRY(km_arena_alloc((void **)&window->cases, window->arena,
                          (size_t)n_cases * sizeof *window->cases, err));
    KM_TRY(km_arena_alloc((void **)&window->items, window->arena,
                          (size_t)n_items * sizeof *window->items, err));
    return KM_OK;
}

static km_status score(recall_run *run, km__continuation *items, int64_t n, km_error *err) {
    KM_TRY(km__score_continuations(items, n, &run->engine, run->plan.options.batch_tokens,
                                   &run->tick, run->done, err));
    run->done += n;
    return KM_OK;
}

static km__continuation continuation(const km__recall_prompt *prompt, const km__recall_text *text) {
    return (km__continuation){.prompt = prompt->ids,
                              .n_prompt = prompt->n_ids,
                              .answer = text->ids,
                              .n_answer = text->n_ids,
                              .lead_layer = -1,
                              .argmax_layer = -1};
}

/* Every pool text under each template without its subject: items (n_templates, n_pool). */
static km_status prepare_subjectless(recall_run *run, recall_window *window, km_error *err) {
    km__recall_plan *plan = &run->plan;
    for (int t = 0; t < plan->relation->n_templates; t++) {
        km__recall_prompt prompt;
        KM_TRY(km__recall_prompt_make(&prompt, window->arena, plan, plan->relation->templates[t],
                                      plan->relation->subjectless, err));
        for (int64_t i = 0; i < plan->n_pool; i++) {
            window->items[t * plan->n_pool + i] = continuation(&prompt, &plan->pool[i]);
        }
    }
    return KM_OK;
}

/* Whether tokenising prompt and answer together gives the ids that were scored. */
static km_status check_boundary(bool *out, const km__recall_plan *plan,
                                const km__recall_prompt *prompt, const km__recall_text *answer,
                                km_arena *arena, km_error *err) {
    km_tokens tokens = KM_TOKENS_INIT;
    km_encode_options options = {plan->options.bos, false};
    km_status status = KM_OK;
    char *text;
    size_t n = strlen(prompt->text);
    KM_GO(km_arena_alloc((void **)&text, arena, n + (size_t)answer->bytes + 1, err));
    memcpy(text, prompt->text, n);
    text[n] = ' ';
    memcpy(text + n + 1, answer->text, (size_t)answer->bytes);
    KM_GO(km_tokenizer_encode(&tokens, km_model_tokenizer(plan->model), text,
                              n + 1 + (size_t)answer->bytes, &options, err));
    *out = tokens.n == prompt->n_ids + answer->n_ids;
    for (int64_t i = 0; *out && i < tokens.n; i++) {
        int32_t expected = i < prompt->n_ids ? prompt->ids[i] : answer->ids[i - prompt->n_ids];
        *out = tokens.items[i].id == expected;
    }
done:
    km_tokens_clear(&tokens);
    return status;
}

static km_status prepare_case(recall_run *run, recall_window *window, km__recall_case *judged,
                              km__continuation *items, km_error *err) {
    km__recall_plan *plan = &run->plan;
    const km__recall_members *members = &plan->members[judged->fact];
    KM_TRY(km__recall_prompt_make(&judged->prompt, window->arena, plan,
                                  plan->relation->templates[judged->template_index],
                                  plan->relation->facts[judged->fact].subject, err));
    KM_TRY(check_boundary(&judged->boundary_ok, plan, &judged->prompt,
                          &plan->pool[members->pool[0]], window->arena, err));
    for (int64_t m = 0; m < members->n; m++) {
        items[m] = continuation(&judged->prompt, &plan->pool[members->pool[m]]);
        items[m].want_end = m < members->n_answers;
    }
    items[0].want_first = true;
    items[0].want_lens = plan->options.lens;
    items[0].rivals = members->rivals;
    items[0].n_rivals = members->n_rivals;
    judged->scored = items;
    return KM_OK;
}

static km_status prepare_cases(recall_run *run, recall_window *window, km__continuation *items,
                               int64_t begin, int64_t end, km_error *err) {
    const km__recall_plan *plan = &run->plan;
    int64_t n_facts = plan->relation->n_facts;
    for (int64_t c = begin; c < end; c++) {
        km__recall_case *judged = &window->cases[c - begin];
        *judged = (km__recall_case){.fact = c % n_facts, .template_index = c / n_facts};
        km_status status = prepare_case(run, window, judged, items, err);
        if (status != KM_OK) {
            km_error_prefix(err, "fact '%s'", plan->relation->facts[judged->fact].id);
            return status;
        }
        items += plan->members[judged->fact].n;
    }
    return KM_OK;
}

/* Cases are numbered template by template: case = template * n_facts + fact. The first window also
 * scores what needs no subject, since passes of their own would be short ones. */
static km_status run_window(recall_run *run, recall_window *window, int64_t begin, int64_t end,
                            km_error *err) {
    km__recall_plan *plan = &run->plan;
    const int64_t n_subjectless = begin == 0 ? plan->relation->n_templates * plan->n_pool : 0;
    int64_t n_items = n_subjectless;
    for (int64_t c = begin; c < end; c++) {
        n_items += plan->members[c % plan->relation->n_facts].n;
    }
    km_arena_reset(window->arena);
    KM_TRY(window_alloc(window, end - begin, n_items, err));
    if (begin == 0) {
        KM_TRY(prepare_subjectless(run, window, err));
    }
    KM_TRY(prepare_cases(run, window, window->items + n_subjectless, begin, end, err));
    KM_TRY(score(run, window->items, n_items, err));
    for (int64_t i = 0; i < n_subjectless; i++) {
        plan->subjectless[i] = window->items[i].logp;
    }
    for (int64_t c = begin; c < end; c++) {
        KM_TRY(km__recall_write(run->table, plan, &window->cases[c - begin], err));
    }
    return KM_OK;
}

static int64_t count_continuations(const km__recall_plan *plan) {
    int64_t members = plan->n_pool;
    for (int64_t i = 0; i < plan->relation->n_facts; i++) {
        members += plan->members[i].n;
    }
    return members * plan->relation->n_templates;
}

static km_status run_all(recall_run *run, km_error *err) {
    const km_recall_relation *relation = run->plan.relation;
    recall_window window = {NULL, NULL, NULL};
    km_status status = KM_OK;
    int64_t n_cases = relation->n_facts * relation->n_templates;
    KM_GO(km_arena_new(&window.arena, run->engine.ctx, err));
    for (int64_t begin = 0; begin < n_cases; begin += WINDOW_CASES) {
        int64_t end = begin + WINDOW_CASES < n_cases ? begin + WINDOW_CASES : n_cases;
        KM_GO(run_window(run, &window, begin, end, err));
    }
done:
    km_arena_free(window.arena);
    return status;
}

km_status km_memorization_run(km_table **out, const km_model *model,
                              const km_recall_relation *relation, const km_recall_options *options,
                              km_tick_fn tick, void *payload, km_error *err) {
    km_status status = KM_OK;
    km_recall_options chosen = KM_RECALL_OPTIONS_INIT;
    recall_run run = {.engine = km__engine_of_model(model)};
    *out = NULL;
    if (options != NULL) {
        chosen = *options;
    }
    if (chosen.batch_tokens < 1 || relation->n_facts < 1 || relation->name == NULL) {
        return KM_SET(err, KM_EINVAL, "a relation needs a name and a fact, a batch a token");
    }
    KM_GO(km__recall_plan_init(&run.plan, model, relation, &chosen, err));
    KM_GO(km__recall_table_new(&run.table, run.engine.ctx, err));
    km_tick_init(&run.tick, run.engine.ctx, tick, payload, count_continuations(&run.plan));
    KM_GO(run_all(&run, err));
    *out = run.table;
    run.table = NULL;
done:
    if (status != KM_OK) {
        km_error_prefix(err, "relation '%s'", relation->name);
    }
    km_table_free(run.table);
    km__recall_plan_clear(&run.plan);
    return status;
}
