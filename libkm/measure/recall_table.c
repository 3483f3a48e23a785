/* The table of km_memorization_run: its columns and how one case becomes one row. */
#include "recall.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum column {
    RELATION,
    FACT,
    SUBJECT,
    ANSWER,
    TEMPLATE,
    TEMPLATE_TEXT,
    PROMPT,
    BOS,
    PROMPT_IDS,
    ANSWER_IDS,
    N_CANDIDATES,
    N_ALIASES,
    LOGP,
    LOGP_PER_BYTE,
    PMI,
    RANK,
    RANK_PER_BYTE,
    RANK_PMI,
    CORRECT,
    CORRECT_PER_BYTE,
    CORRECT_PMI,
    TOP_CANDIDATE,
    SCORED_ANSWER,
    MARGIN,
    SUBJECTLESS_LOGP,
    SUBJECTLESS_RANK,
    SUBJECTLESS_CORRECT,
    COMMONEST_CORRECT,
    SHUFFLED_ANSWER,
    SHUFFLED_RANK,
    SHUFFLED_CORRECT,
    EXACT_GREEDY,
    ANSWER_END_OK,
    EXACT,
    FIRST_TOKEN_RANK,
    FIRST_TOKEN_LOGP,
    FIRST_TOKEN_PROB,
    TOP1,
    TOP10,
    FIRST_TOKEN_COLLISION,
    LONE_BLANK_FIRST_TOKEN,
    BOUNDARY_OK,
    LEAD_LAYER,
    LEAD_CENSORED,
    ARGMAX_LAYER,
    N_COLUMNS
};

#define TEXT_COLUMN(name, about) {name, KM_COLUMN_TEXT, "", about}
#define INT_COLUMN(name, unit, about) {name, KM_COLUMN_INT64, unit, about}
#define REAL_COLUMN(name, unit, about) {name, KM_COLUMN_DOUBLE, unit, about}
#define BOOL_COLUMN(name, about) {name, KM_COLUMN_BOOL, "", about}

static const km_column_spec COLUMNS[N_COLUMNS] = {
    TEXT_COLUMN("relation", "Name of the relation."),
    TEXT_COLUMN("fact", "Identifier of the fact within its relation."),
    TEXT_COLUMN("subject", "What the prompt asks about."),
    TEXT_COLUMN("answer", "The printed answer."),
    INT_COLUMN("template", "", "Index of the template among those given."),
    TEXT_COLUMN("template_text", "The template, with {} for the subject."),
    TEXT_COLUMN("prompt", "The text the model was given."),
    BOOL_COLUMN("bos", "Whether the prompt's tokens start with the beginning-of-sequence token."),
    TEXT_COLUMN("prompt_ids", "Token ids of the prompt, a JSON array."),
    TEXT_COLUMN("answer_ids", "Token ids of a blank and the printed answer, a JSON array."),
    INT_COLUMN("n_candidates", "candidates",
               "Answers ranked: the accepted ones as one, the wrong "
               "ones each."),
    INT_COLUMN("n_aliases", "answers", "Accepted answers beside the printed one."),
    REAL_COLUMN("logp", "nats", "Log-probability of the best accepted answer, summed over tokens."),
    REAL_COLUMN("logp_per_byte", "nats/byte", "Best accepted answer's logp by UTF-8 byte."),
    REAL_COLUMN("pmi", "nats", "Best accepted answer's logp minus its logp without the subject."),
    INT_COLUMN("rank", "rank", "Wrong candidates with at least the answer's logp."),
    INT_COLUMN("rank_per_byte", "rank", "The same by logp per byte."),
    INT_COLUMN("rank_pmi", "rank", "The same by pmi."),
    BOOL_COLUMN("correct", "rank is 0."),
    BOOL_COLUMN("correct_per_byte", "rank_per_byte is 0."),
    BOOL_COLUMN("correct_pmi", "rank_pmi is 0."),
    TEXT_COLUMN("top_candidate", "The candidate with the largest logp."),
    TEXT_COLUMN("scored_answer", "The accepted answer with the largest logp."),
    REAL_COLUMN("margin", "nats", "logp minus that of the best wrong candidate."),
    REAL_COLUMN("subjectless_logp", "nats", "logp under the prompt without its subject."),
    INT_COLUMN("subjectless_rank", "rank", "rank under the prompt without its subject."),
    BOOL_COLUMN("subjectless_correct", "subjectless_rank is 0."),
    BOOL_COLUMN("commonest_correct", "The relation's commonest answer is accepted here."),
    TEXT_COLUMN("shuffled_answer", "Another subject's answer, judged under this prompt."),
    INT_COLUMN("shuffled_rank", "rank", "Rank of the shuffled answer among all others."),
    BOOL_COLUMN("shuffled_correct", "shuffled_rank is 0."),
    BOOL_COLUMN("exact_greedy", "Greedy decoding yields an accepted answer."),
    BOOL_COLUMN("answer_end_ok", "The greedy answer ends there; null unless exact_greedy."),
    BOOL_COLUMN("exact", "exact_greedy and answer_end_ok."),
    INT_COLUMN("first_token_rank", "rank",
               "Tokens strictly more likely than the printed answer's "
               "first."),
    REAL_COLUMN("first_token_logp", "nats", "Log-probability of the printed answer's first token."),
    REAL_COLUMN("first_token_prob", "probability", "Its probability."),
    BOOL_COLUMN("top1", "first_token_rank is 0."),
    BOOL_COLUMN("top10", "first_token_rank is below 10."),
    BOOL_COLUMN("first_token_collision", "A wrong candidate starts with the same token."),
    BOOL_COLUMN("lone_blank_first_token", "The first token is nothing but blanks."),
    BOOL_COLUMN("boundary_ok", "Prompt and answer tokenised together give the same ids."),
    INT_COLUMN("lead_layer", "layer",
               "First layer from which the answer's first token leads the "
               "candidates' up to the output; null when it never does."),
    BOOL_COLUMN("lead_censored", "It does not lead at the output; null where undefined."),
    INT_COLUMN("argmax_layer", "layer",
               "First layer from which it is the vocabulary's argmax up "
               "to the output; null when it never is."),
};

/* A row being written: after the first failure further cells are skipped. */
typedef struct row_writer {
    km_table *table;
    km_status status;
    km_error *err;
} row_writer;

static void put_text(row_writer *w, enum column column, const char *text) {
    if (w->status == KM_OK) {
        w->status = km_table_set_text(w->table, (int)column, text, -1, w->err);
    }
}

static void put_int(row_writer *w, enum column column, int64_t value) {
    if (w->status == KM_OK) {
        w->status = km_table_set_int64(w->table, (int)column, value, w->err);
    }
}

static void put_real(row_writer *w, enum column column, double value) {
    if (w->status == KM_OK) {
        w->status = km_table_set_double(w->table, (int)column, value, w->err);
    }
}

static void put_bool(row_writer *w, enum column column, bool value) {
    if (w->status == KM_OK) {
        w->status = km_table_set_bool(w->table, (int)column, value, w->err);
    }
}

static void put_ids(row_writer *w, enum column column, const int32_t *ids, int64_t n, km_ctx *ctx) {
    char *text = NULL;
    size_t used = 1;
    if (w->status == KM_OK) {
        w->status = km_alloc_array((void **)&text, ctx, n + 1, 16, w->err);
    }
    if (w->status == KM_OK) {
        text[0] = '[';
        for (int64_t i = 0; i < n; i++) {
            used += (size_t)snprintf(text + used, 16, i == 0 ? "%ld" : ",%ld", (long)ids[i]);
        }
        text[used] = ']';
        w->status = km_table_set_text(w->table, (int)column, text, (int64_t)used + 1, w->err);
    }
    km_free(ctx, text);
}

static void write_identity(row_writer *w, const km__recall_plan *plan,
                           const km__recall_case *judged) {
    const km_recall_fact *fact = &plan->relation->facts[judged->fact];
    const km__recall_text *answer = &plan->pool[plan->members[judged->fact].pool[0]];
    const km_tokenizer *tokenizer = km_model_tokenizer(plan->model);
    km_ctx *ctx = km_model_ctx(plan->model);
    put_text(w, RELATION, plan->relation->name);
    put_text(w, FACT, fact->id);
    put_text(w, SUBJECT, fact->subject);
    put_text(w, ANSWER, fact->answers[0]);
    put_int(w, TEMPLATE, judged->template_index);
    put_text(w, TEMPLATE_TEXT, plan->relation->templates[judged->template_index]);
    put_text(w, PROMPT, judged->prompt.text);
    put_bool(w, BOS, judged->prompt.ids[0] == km_tokenizer_bos(tokenizer));
    put_ids(w, PROMPT_IDS, judged->prompt.ids, judged->prompt.n_ids, ctx);
    put_ids(w, ANSWER_IDS, answer->ids, answer->n_ids, ctx);
    put_int(w, N_CANDIDATES, 1 + (int64_t)fact->n_candidates);
    put_int(w, N_ALIASES, fact->n_answers - 1);
    put_bool(w, BOUNDARY_OK, judged->boundary_ok);
}

static const char *member_text(const km__recall_plan *plan, const km__recall_case *judged,
                               int64_t member) {
    return plan->pool[plan->members[judged->fact].pool[member]].text;
}

static void write_rank(row_writer *w, enum column rank_column, enum column correct_column,
                       int64_t rank) {
    put_int(w, rank_column, rank);
    put_bool(w, correct_column, rank == 0);
}

/* Without a wrong candidate there is nothing to rank against: these cells stay null. */
static void write_ranks(row_writer *w, const km__recall_plan *plan, const km__recall_case *judged) {
    int64_t best = km__recall_best_answer(plan, judged, KM__BY_SUM);
    int64_t wrong = km__recall_best_wrong(plan, judged, KM__BY_SUM);
    if (wrong < 0) {
        return;
    }
    double margin = judged->scored[best].logp - judged->scored[wrong].logp;
    write_rank(w, RANK, CORRECT, km__recall_rank(plan, judged, KM__BY_SUM));
    write_rank(w, RANK_PER_BYTE, CORRECT_PER_BYTE, km__recall_rank(plan, judged, KM__BY_BYTE));
    write_rank(w, RANK_PMI, CORRECT_PMI, km__recall_rank(plan, judged, KM__BY_PMI));
    write_rank(w, SUBJECTLESS_RANK, SUBJECTLESS_CORRECT,
               km__recall_rank(plan, judged, KM__BY_SUBJECTLESS));
    put_text(w, TOP_CANDIDATE, member_text(plan, judged, margin > 0 ? best : wrong));
    put_real(w, MARGIN, margin);
}

static void write_scores(row_writer *w, const km__recall_plan *plan,
                         const km__recall_case *judged) {
    int64_t best = km__recall_best_answer(plan, judged, KM__BY_SUM);
    int64_t by_byte = km__recall_best_answer(plan, judged, KM__BY_BYTE);
    int64_t by_pmi = km__recall_best_answer(plan, judged, KM__BY_PMI);
    int64_t subjectless = km__recall_best_answer(plan, judged, KM__BY_SUBJECTLESS);
    put_real(w, LOGP, km__recall_score(plan, judged, best, KM__BY_SUM));
    put_real(w, LOGP_PER_BYTE, km__recall_score(plan, judged, by_byte, KM__BY_BYTE));
    put_real(w, PMI, km__recall_score(plan, judged, by_pmi, KM__BY_PMI));
    put_real(w, SUBJECTLESS_LOGP, km__recall_score(plan, judged, subjectless, KM__BY_SUBJECTLESS));
    put_text(w, SCORED_ANSWER, member_text(plan, judged, best));
}

static void write_baselines(row_writer *w, const km__recall_plan *plan,
                            const km__recall_case *judged) {
    const km__recall_members *members = &plan->members[judged->fact];
    put_bool(w, COMMONEST_CORRECT, members->commonest);
    if (members->partner >= 0) {
        put_text(w, SHUFFLED_ANSWER, member_text(plan, judged, members->partner));
        write_rank(w, SHUFFLED_RANK, SHUFFLED_CORRECT, km__recall_partner_rank(plan, judged));
    }
}

static void write_exact(row_writer *w, const km__recall_plan *plan, const km__recall_case *judged) {
    bool greedy = false;
    bool ends = false;
    for (int64_t m = 0; m < plan->members[judged->fact].n_answers; m++) {
        if (judged->scored[m].greedy) {
            greedy = true;
            ends = ends || km__recall_ends(plan, judged, m, judged->scored[m].end);
        }
    }
    put_bool(w, EXACT_GREEDY, greedy);
    if (greedy) {
        put_bool(w, ANSWER_END_OK, ends);
    }
    put_bool(w, EXACT, greedy && ends);
}

static void write_first_token(row_writer *w, const km__recall_plan *plan,
                              const km__recall_case *judged) {
    const km__recall_members *members = &plan->members[judged->fact];
    const km__continuation *printed = &judged->scored[0];
    put_int(w, FIRST_TOKEN_RANK, printed->first_rank);
    put_real(w, FIRST_TOKEN_LOGP, printed->first_logp);
    put_real(w, FIRST_TOKEN_PROB, exp(printed->first_logp));
    put_bool(w, TOP1, printed->first_rank == 0);
    put_bool(w, TOP10, printed->first_rank < 10);
    put_bool(w, FIRST_TOKEN_COLLISION, members->collision);
    put_bool(w, LONE_BLANK_FIRST_TOKEN, members->lone_blank);
}

static void write_layers(row_writer *w, const km__recall_plan *plan,
                         const km__recall_case *judged) {
    const km__recall_members *members = &plan->members[judged->fact];
    const km__continuation *printed = &judged->scored[0];
    if (!plan->options.lens) {
        return;
    }
    if (!members->collision && members->n_rivals > 0) {
        put_bool(w, LEAD_CENSORED, printed->lead_layer < 0);
        if (printed->lead_layer >= 0) {
            put_int(w, LEAD_LAYER, printed->lead_layer);
        }
    }
    if (printed->argmax_layer >= 0) {
        put_int(w, ARGMAX_LAYER, printed->argmax_layer);
    }
}

km_status km__recall_table_new(km_table **out, km_ctx *ctx, km_error *err) {
    return km_table_new(out, ctx, COLUMNS, N_COLUMNS, err);
}

km_status km__recall_write(km_table *table, const km__recall_plan *plan,
                           const km__recall_case *judged, km_error *err) {
    row_writer writer = {table, KM_OK, err};
    writer.status = km_table_add_row(table, err);
    write_identity(&writer, plan, judged);
    write_scores(&writer, plan, judged);
    write_ranks(&writer, plan, judged);
    write_baselines(&writer, plan, judged);
    write_exact(&writer, plan, judged);
    write_first_token(&writer, plan, judged);
    write_layers(&writer, plan, judged);
    return writer.status;
}
