/* select_batch.h: a small batch of dialogues for the tests of knowledge selection: dialogues share
 * lists, lists share sentences, one sentence is empty, so is one context, and one turn has no gold.
 */
#ifndef KM_TESTS_SELECT_BATCH_H
#define KM_TESTS_SELECT_BATCH_H

#include "km/select.h"

enum { SB_V = 11, SB_TURNS = 6, SB_CANDIDATES = 4 + 4 + 4 + 3 + 3 + 4, SB_VECTORS = 3 };

static const int32_t SB_SENTENCE_TOKENS[] = {4, 5, 6, 7, 5, 10, 9, 8, 8, 1, 4, 6, 7, 9};
static const int64_t SB_SENTENCE_OFFSETS[] = {0, 1, 4, 5, 5, 9, 14};
static const int64_t SB_LIST_SENTENCES[] = {0, 1, 3, 4, 0, 5, 2};
static const int64_t SB_LIST_OFFSETS[] = {0, 4, 7};
static const int64_t SB_DIALOGUE_OFFSETS[] = {0, 3, 5, 6};
static const int64_t SB_TURN_LISTS[] = {0, 0, 0, 1, 1, 0};
static const int32_t SB_CONTEXT_TOKENS[] = {2, 4, 5, 3, 2, 6, 3, 2, 9, 9, 10, 3, 2, 7, 3, 8, 4};
static const int64_t SB_CONTEXT_OFFSETS[] = {0, 4, 7, 12, 12, 15, 17};
static const int64_t SB_GOLD[] = {1, 3, 2, 2, 0, 1};
static const int32_t SB_RESPONSE_TOKENS[] = {2, 4, 5, 3, 2, 1, 3, 2, 8, 8, 3, 2, 9, 3, 2, 1};
static const int64_t SB_RESPONSE_OFFSETS[] = {0, 4, 7, 11, 14, 14, 16};

static inline km_diffks_batch sb_batch(void) {
    return (km_diffks_batch){.n_sentences = 6,
                             .n_lists = 2,
                             .n_dialogues = 3,
                             .n_turns = SB_TURNS,
                             .sentence_tokens = SB_SENTENCE_TOKENS,
                             .sentence_offsets = SB_SENTENCE_OFFSETS,
                             .list_sentences = SB_LIST_SENTENCES,
                             .list_offsets = SB_LIST_OFFSETS,
                             .dialogue_offsets = SB_DIALOGUE_OFFSETS,
                             .turn_lists = SB_TURN_LISTS,
                             .context_tokens = SB_CONTEXT_TOKENS,
                             .context_offsets = SB_CONTEXT_OFFSETS,
                             .gold = SB_GOLD,
                             .response_tokens = SB_RESPONSE_TOKENS,
                             .response_offsets = SB_RESPONSE_OFFSETS};
}

static inline km_diffks_config sb_config(km_diffks_variant variant) {
    km_diffks_config config = KM_DIFFKS_CONFIG_INIT;
    config.variant = variant;
    config.vocabulary = SB_V;
    config.embedding = 5;
    config.hidden = 3;
    config.decoder = 4;
    config.dropout = 0.0;
    return config;
}

#endif
