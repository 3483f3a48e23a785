/* tiny_model.h: a complete llama or gemma3 model of a few kilobytes, as GGUF and as a Hugging Face
 * folder. Every weight is a multiple of 1/16 in [-1/2, 1/2], so that every storage type holds it
 * exactly. */
#ifndef KM_TESTS_TINY_MODEL_H
#define KM_TESTS_TINY_MODEL_H

#include "model_files.h"

enum { D = 32, F = 64, H = 2, K = 1, DH = 16, V = 6, L = 2 };

/* A metadata key; a change with REMOVED takes the key away, any other replaces or adds it. */
enum { REMOVED = -1 };
typedef struct meta {
    const char *key;
    int kind; /* U32, F32, BOOL, STRING or REMOVED */
    double number;
    const char *text;
} meta;

static const meta LLAMA_META[] = {
    {"general.architecture", STRING, 0, "llama"},
    {"general.name", STRING, 0, "Tiny"},
    {"llama.block_count", U32, L, NULL},
    {"llama.embedding_length", U32, D, NULL},
    {"llama.feed_forward_length", U32, F, NULL},
    {"llama.context_length", U32, 128, NULL},
    {"llama.attention.head_count", U32, H, NULL},
    {"llama.attention.head_count_kv", U32, K, NULL},
    {"llama.attention.layer_norm_rms_epsilon", F32, 0.0009765625, NULL},
    {"llama.rope.freq_base", F32, 50000, NULL},
};

static const meta GEMMA_META[] = {
    {"general.architecture", STRING, 0, "gemma3"},
    {"gemma3.block_count", U32, L, NULL},
    {"gemma3.embedding_length", U32, D, NULL},
    {"gemma3.feed_forward_length", U32, F, NULL},
    {"gemma3.context_length", U32, 128, NULL},
    {"gemma3.attention.head_count", U32, H, NULL},
    {"gemma3.attention.head_count_kv", U32, K, NULL},
    {"gemma3.attention.key_length", U32, DH, NULL},
    {"gemma3.attention.value_length", U32, DH, NULL},
    {"gemma3.attention.layer_norm_rms_epsilon", F32, 0.0009765625, NULL},
    {"gemma3.attention.sliding_window", U32, 64, NULL},
};

/* A tensor under both its names; rows 0: a vector. layer -1: once. */
typedef struct tiny_tensor {
    const char *gguf, *hf;
    int64_t rows, cols;
    bool layered, gemma_only;
} tiny_tensor;

static const tiny_tensor TINY[] = {
    {"token_embd", "model.embed_tokens", V, D, false, false},
    {"output_norm", "model.norm", 0, D, false, false},
    {"output", "lm_head", V, D, false, false},
    {"attn_norm", "input_layernorm", 0, D, true, false},
    {"attn_q", "self_attn.q_proj", H * DH, D, true, false},
    {"attn_k", "self_attn.k_proj", K * DH, D, true, false},
    {"attn_v", "self_attn.v_proj", K * DH, D, true, false},
    {"attn_q_norm", "self_attn.q_norm", 0, DH, true, true},
    {"attn_k_norm", "self_attn.k_norm", 0, DH, true, true},
    {"attn_output", "self_attn.o_proj", D, H * DH, true, false},
    {"post_attention_norm", "post_attention_layernorm", 0, D, true, true},
    {"ffn_norm", "post_attention_layernorm", 0, D, true, false},
    {"ffn_gate", "mlp.gate_proj", F, D, true, false},
    {"ffn_up", "mlp.up_proj", F, D, true, false},
    {"ffn_down", "mlp.down_proj", D, F, true, false},
    {"post_ffw_norm", "post_feedforward_layernorm", 0, D, true, true},
};
#define N_TINY ((int)(sizeof(TINY) / sizeof(TINY[0])))
enum { OUTPUT_INDEX = 2, FFN_NORM_INDEX = 11 };

/* Element i of tensor `index` in `layer`, as a number of sixteenths. */
static inline int tiny_sixteenths(int index, int layer, int64_t i) {
    return (int)((7 * i + 3 * index + 5 * layer + i / 11) % 17) - 8;
}

static inline float tiny_value(int index, int layer, int64_t i) {
    return (float)tiny_sixteenths(index, layer, i) / 16.0f;
}

/* What to write and what to spoil. */
typedef struct tiny_options {
    bool gemma, tied;
    uint32_t type;         /* of matrices: 0 F32, 1 F16, 8 Q8_0, 30 BF16 */
    const meta *changes;   /* to the metadata, ended by a NULL key */
    const char *missing;   /* tensor to leave out, by its full name */
    const char *misshapen; /* tensor given one column more (F32 only) */
    const char *extra;     /* vector to add, in F32 */
    const char *infinite;  /* tensor whose last element becomes infinite (F32 only) */
    size_t header_padding; /* safetensors: blanks behind the header */
} tiny_options;

static inline bool tiny_is_present(const tiny_options *o, int index, int layer) {
    const tiny_tensor *t = &TINY[index];
    return (t->layered ? layer >= 0 : layer < 0) && (o->gemma || !t->gemma_only) &&
           !(index == OUTPUT_INDEX && o->tied);
}

static inline bool is_named(const char *name, const char *wanted) {
    return wanted != NULL && strcmp(name, wanted) == 0;
}

/* Elements of one tensor in its storage type. */
static inline void put_values(bytes *b, const tiny_options *o, int index, int layer,
                              const char *name, int64_t n) {
    bool matrix = TINY[index].rows > 0;
    uint32_t type = matrix ? o->type : 0;
    for (int64_t i = 0; i < n; i++) {
        float value = tiny_value(index, layer, i);
        if (i == n - 1 && is_named(name, o->infinite)) {
            value = 1.0f / 0.0f;
        }
        uint32_t bits;
        memcpy(&bits, &value, sizeof(bits));
        if (type == 0) {
            put_u32(b, bits);
        } else if (type == 30) {
            bits >>= 16;
            put(b, &bits, 2);
        } else if (type == 1) { /* exponent rebased; sixteenths never become subnormal */
            uint32_t half =
                value == 0.0f ? 0 : (bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112 << 10));
            put(b, &half, 2);
        } else {
            signed char q = (signed char)tiny_sixteenths(index, layer, i);
            if (i % 32 == 0) {
                put(b, "\x00\x2c", 2); /* 1/16 */
            }
            put(b, &q, 1);
        }
    }
}

static inline int64_t tiny_bytes(uint32_t type, int64_t n) {
    return type == 0 ? 4 * n : type == 8 ? n / 32 * 34 : 2 * n;
}

/* ---- GGUF ---- */

static inline void put_meta(bytes *b, const meta *m) {
    if (m->kind == U32) {
        key_u32(b, m->key, (uint32_t)m->number);
    } else if (m->kind == F32) {
        key_float(b, m->key, (float)m->number);
    } else if (m->kind == BOOL) {
        key_bool(b, m->key, (unsigned char)m->number);
    } else {
        key_string(b, m->key, m->text);
    }
}

static inline uint64_t put_all_meta(bytes *b, const tiny_options *o) {
    static const meta NONE[] = {{NULL, 0, 0, NULL}};
    const meta *base = o->gemma ? GEMMA_META : LLAMA_META;
    size_t n_base =
        o->gemma ? sizeof(GEMMA_META) / sizeof(meta) : sizeof(LLAMA_META) / sizeof(meta);
    const meta *changes = o->changes != NULL ? o->changes : NONE;
    uint64_t n = 0;
    for (size_t i = 0; i < n_base; i++) {
        bool changed = false;
        for (const meta *c = changes; c->key != NULL; c++) {
            changed = changed || strcmp(c->key, base[i].key) == 0;
        }
        if (!changed) {
            put_meta(b, &base[i]);
            n++;
        }
    }
    for (const meta *c = changes; c->key != NULL; c++) {
        if (c->kind != REMOVED) {
            put_meta(b, c);
            n++;
        }
    }
    return n;
}

/* Describe (data NULL) or write one tensor; *offset runs along the data section. */
static inline bool put_gguf_tensor(bytes *head, bytes *data, const tiny_options *o, int index,
                                   int layer) {
    const tiny_tensor *t = &TINY[index];
    char name[64];
    if (t->layered) {
        snprintf(name, sizeof(name), "blk.%d.%s.weight", layer, t->gguf);
    } else {
        snprintf(name, sizeof(name), "%s.weight", t->gguf);
    }
    if (is_named(name, o->missing)) {
        return false;
    }
    int64_t cols = t->cols + (is_named(name, o->misshapen) ? 1 : 0);
    put_padding(data, 32);
    gguf_tensor(head, name, t->rows, cols, t->rows > 0 ? o->type : 0, data->n);
    put_values(data, o, index, layer, name, (t->rows > 0 ? t->rows : 1) * cols);
    return true;
}

static inline bytes tiny_gguf(const tiny_options *o) {
    bytes keys = {NULL, 0, 0}, tensors = {NULL, 0, 0}, data = {NULL, 0, 0}, all = {NULL, 0, 0};
    uint64_t n_keys = put_all_meta(&keys, o);
    uint64_t n_tensors = 0;
    for (int layer = -1; layer < L; layer++) {
        for (int i = 0; i < N_TINY; i++) {
            if (tiny_is_present(o, i, layer)) {
                n_tensors += put_gguf_tensor(&tensors, &data, o, i, layer);
            }
        }
    }
    if (o->extra != NULL) {
        put_padding(&data, 32);
        gguf_tensor(&tensors, o->extra, 0, 1, 0, data.n);
        put_float(&data, 0.5f);
        n_tensors++;
    }
    gguf_head(&all, n_tensors, n_keys);
    put(&all, keys.data, keys.n);
    put(&all, tensors.data, tensors.n);
    put_padding(&all, 32);
    put(&all, data.data, data.n);
    clear(&keys);
    clear(&tensors);
    clear(&data);
    return all;
}

/* ---- Hugging Face ---- */

static inline void put_hf_tensor(bytes *head, bytes *data, const tiny_options *o, int index,
                                 int layer) {
    const tiny_tensor *t = &TINY[index];
    char name[96];
    char text[320];
    const char *hf = o->gemma && index == FFN_NORM_INDEX ? "pre_feedforward_layernorm" : t->hf;
    if (t->layered) {
        snprintf(name, sizeof(name), "model.layers.%d.%s.weight", layer, hf);
    } else {
        snprintf(name, sizeof(name), "%s.weight", hf);
    }
    if (is_named(name, o->missing)) {
        return;
    }
    size_t begin = data->n;
    put_values(data, o, index, layer, name, (t->rows > 0 ? t->rows : 1) * t->cols);
    uint32_t type = t->rows > 0 ? o->type : 0;
    char rows[16] = "";
    if (t->rows > 0) {
        snprintf(rows, sizeof(rows), "%d,", (int)t->rows);
    }
    snprintf(text, sizeof(text),
             "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s%d],\"data_offsets\":[%zu,%zu]}",
             head->n > 1 ? "," : "", name,
             type == 0   ? "F32"
             : type == 1 ? "F16"
                         : "BF16",
             rows, (int)t->cols, begin, data->n);
    put_text(head, text);
}

static inline bytes tiny_safetensors(const tiny_options *o) {
    bytes head = {NULL, 0, 0}, data = {NULL, 0, 0}, all = {NULL, 0, 0};
    put_text(&head, "{");
    for (int layer = -1; layer < L; layer++) {
        for (int i = 0; i < N_TINY; i++) {
            if (tiny_is_present(o, i, layer)) {
                put_hf_tensor(&head, &data, o, i, layer);
            }
        }
    }
    put_text(&head, "}");
    put_padding(&head, 8);
    for (size_t i = 0; i < head.n; i++) {
        head.data[i] = head.data[i] == '\0' ? ' ' : head.data[i];
    }
    for (size_t i = 0; i < o->header_padding; i++) {
        put_text(&head, " ");
    }
    put_u64(&all, head.n);
    put(&all, head.data, head.n);
    put(&all, data.data, data.n);
    clear(&head);
    clear(&data);
    return all;
}

static const char LLAMA_JSON[] =
    "{\"model_type\":\"llama\",\"hidden_size\":32,\"intermediate_size\":64,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
    "\"vocab_size\":6,\"max_position_embeddings\":128,\"rms_norm_eps\":0.0009765625,"
    "\"rope_theta\":50000.0,\"tie_word_embeddings\":";

static const char GEMMA_JSON[] =
    "{\"model_type\":\"gemma3_text\",\"hidden_size\":32,\"intermediate_size\":64,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
    "\"head_dim\":16,\"vocab_size\":6,\"max_position_embeddings\":128,"
    "\"query_pre_attn_scalar\":16,\"sliding_window\":64,\"tie_word_embeddings\":";

static inline void tiny_write_folder(const folder *f, const tiny_options *o) {
    char text[1024];
    bytes weights = tiny_safetensors(o);
    snprintf(text, sizeof(text), "%s%s}", o->gemma ? GEMMA_JSON : LLAMA_JSON,
             o->tied ? "true" : "false");
    folder_write_text(f, "config.json", text);
    folder_write(f, "model.safetensors", weights.data, weights.n);
    clear(&weights);
}

#endif
