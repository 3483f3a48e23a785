/* Judgements on one case: which answer ranks where, and whether a greedy answer really ends. */
#include "recall.h"

#include <string.h>

static const km__recall_text *text_of(const km__recall_plan *plan, const km__recall_case *judged,
                                      int64_t member) {
    return &plan->pool[plan->members[judged->fact].pool[member]];
}

double km__recall_score(const km__recall_plan *plan, const km__recall_case *judged, int64_t member,
                        km__recall_by by) {
    double sum = judged->scored[member].logp;
    double subjectless = plan->subjectless[judged->template_index * plan->n_pool +
                                           plan->members[judged->fact].pool[member]];
    switch (by) {
    case KM__BY_BYTE:
        return sum / (double)text_of(plan, judged, member)->bytes;
    case KM__BY_PMI:
        return sum - subjectless;
    case KM__BY_SUBJECTLESS:
        return subjectless;
    case KM__BY_SUM:
    default:
        return sum;
    }
}

static int64_t best_of(const km__recall_plan *plan, const km__recall_case *judged, int64_t begin,
                       int64_t end, km__recall_by by) {
    int64_t best = begin < end ? begin : -1;
    for (int64_t m = begin + 1; m < end; m++) {
        if (km__recall_score(plan, judged, m, by) > km__recall_score(plan, judged, best, by)) {
            best = m;
        }
    }
    return best;
}

int64_t km__recall_best_answer(const km__recall_plan *plan, const km__recall_case *judged,
                               km__recall_by by) {
    return best_of(plan, judged, 0, plan->members[judged->fact].n_answers, by);
}

int64_t km__recall_best_wrong(const km__recall_plan *plan, const km__recall_case *judged,
                              km__recall_by by) {
    const km__recall_members *members = &plan->members[judged->fact];
    return best_of(plan, judged, members->n_answers, members->n, by);
}

int64_t km__recall_rank(const km__recall_plan *plan, const km__recall_case *judged,
                        km__recall_by by) {
    const km__recall_members *members = &plan->members[judged->fact];
    int64_t best = km__recall_best_answer(plan, judged, by);
    double own = km__recall_score(plan, judged, best, by);
    int64_t rank = 0;
    for (int64_t m = members->n_answers; m < members->n; m++) {
        rank += km__recall_score(plan, judged, m, by) >= own;
    }
    return rank;
}

int64_t km__recall_partner_rank(const km__recall_plan *plan, const km__recall_case *judged) {
    const km__recall_members *members = &plan->members[judged->fact];
    double own = km__recall_score(plan, judged, members->partner, KM__BY_SUM);
    int64_t right = km__recall_best_answer(plan, judged, KM__BY_SUM);
    int64_t rank = km__recall_score(plan, judged, right, KM__BY_SUM) >= own;
    for (int64_t m = members->n_answers; m < members->n; m++) {
        rank += m != members->partner && km__recall_score(plan, judged, m, KM__BY_SUM) >= own;
    }
    return rank;
}

static bool is_word_byte(unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
           c == '-';
}

/* Non-ASCII text goes on a word unless it is a no-break space, general punctuation (U+2000 to
 * U+206F) or CJK punctuation (U+3000 to U+303F). */
static bool extends_word(const char *piece, size_t n) {
    const unsigned char *p = (const unsigned char *)piece;
    if (n == 0 || p[0] < 0x80) {
        return n > 0 && is_word_byte(p[0]);
    }
    bool no_break = n >= 2 && p[0] == 0xc2 && p[1] == 0xa0;
    bool general = n >= 3 && p[0] == 0xe2 && (p[1] == 0x80 || (p[1] == 0x81 && p[2] < 0xb0));
    bool cjk = n >= 3 && p[0] == 0xe3 && p[1] == 0x80;
    return !no_break && !general && !cjk;
}

/* Whether answer + piece is on the way into `candidate`, which must go on after the answer. */
static bool leads_into(const km__recall_text *candidate, const km__recall_text *answer,
                       const char *piece, size_t n) {
    if (candidate->bytes <= answer->bytes ||
        memcmp(candidate->text, answer->text, (size_t)answer->bytes) != 0) {
        return false;
    }
    size_t rest = (size_t)(candidate->bytes - answer->bytes);
    return memcmp(candidate->text + answer->bytes, piece, rest < n ? rest : n) == 0;
}

bool km__recall_ends(const km__recall_plan *plan, const km__recall_case *judged, int64_t member,
                     int32_t next) {
    const km__recall_members *members = &plan->members[judged->fact];
    const km_tokenizer *tokenizer = km_model_tokenizer(plan->model);
    size_t n = 0;
    const char *piece = km_tokenizer_piece(tokenizer, next, &n);
    if (piece == NULL || km_tokenizer_is_special(tokenizer, next)) {
        return true;
    }
    if (extends_word(piece, n)) {
        return false;
    }
    for (int64_t m = members->n_answers; m < members->n; m++) {
        if (leads_into(text_of(plan, judged, m), text_of(plan, judged, member), piece, n)) {
            return false;
        }
    }
    return true;
}
