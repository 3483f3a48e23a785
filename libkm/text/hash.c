/* hash.c: the SHA-256 of a tokenizer: merges or priorities, then kind and flags, then each token.
 *
 * Computed when it is first asked for, because it would be a third of the time a large vocabulary
 * takes to open. A tokenizer is constant to its users; the remembered hash is guarded by an atomic
 * state: one thread writes it, others that come meanwhile wait for those few bytes. */
#include <string.h>

#include "text/text_private.h"

enum { HASH_ABSENT = 0, HASH_WRITING, HASH_READY };

static void hash_number(km_sha256 *sha, int64_t value) {
    unsigned char bytes[8];
    for (int i = 0; i < 8; i++) {
        bytes[i] = (unsigned char)((uint64_t)value >> (8 * i));
    }
    km_sha256_update(sha, bytes, sizeof bytes);
}

static void hash_facts(km_sha256 *sha, const km_tokenizer *t) {
    const int64_t facts[] = {t->kind,
                             t->kind == KM_TOKENIZER_BPE ? (int64_t)t->pre : -1,
                             t->bos,
                             t->eos,
                             t->unk,
                             t->add_bos,
                             t->n,
                             t->prefix,
                             t->ignore_merges};
    for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++) {
        hash_number(sha, facts[i]);
    }
    if (t->nfc) { /* a tokenizer without it keeps the hash it had before this was read */
        hash_number(sha, -2);
    }
    for (int64_t i = 0; i < t->late.n; i++) {
        hash_number(sha, t->late.items[i].id);
    }
}

static void compute(char out[65], const km_tokenizer *t) {
    km_sha256 sha;
    unsigned char digest[32];
    km_sha256_init(&sha);
    for (int64_t i = 0; i < t->n_pairs; i++) {
        hash_number(&sha, (int64_t)t->pairs[i]);
    }
    for (int64_t i = 0; t->priority != NULL && i < t->n; i++) {
        hash_number(&sha, (int64_t)t->priority[i]);
    }
    hash_facts(&sha, t);
    for (int64_t i = 0; i < t->n; i++) {
        km_slice key = km__strings_at(&t->keys, i);
        km_slice surface = km__strings_at(&t->surface, i);
        hash_number(&sha, t->types[i]);
        hash_number(&sha, (int64_t)key.n);
        km_sha256_update(&sha, key.data, key.n);
        hash_number(&sha, (int64_t)surface.n);
        km_sha256_update(&sha, surface.data, surface.n);
    }
    km_sha256_final(&sha, digest);
    km_sha256_hex(out, digest);
}

const char *km_tokenizer_hash(const km_tokenizer *tokenizer) {
    km_tokenizer *self = (km_tokenizer *)(uintptr_t)tokenizer;
    if (atomic_load(&self->hash_state) == HASH_READY) {
        return self->hash;
    }
    char hash[sizeof self->hash];
    compute(hash, tokenizer);
    int absent = HASH_ABSENT;
    if (atomic_compare_exchange_strong(&self->hash_state, &absent, HASH_WRITING)) {
        memcpy(self->hash, hash, sizeof hash);
        atomic_store(&self->hash_state, HASH_READY);
    }
    while (atomic_load(&self->hash_state) != HASH_READY) {
        /* the other thread is copying 65 bytes */
    }
    return self->hash;
}
