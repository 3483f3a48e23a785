/* capitals.c: km's main job from C: load a model, measure what it recalls, store the table in a
 * knowledge base, follow one fact through the layers and draw its path.
 *
 *     cc capitals.c $(pkg-config --cflags --libs km km-kb km-viz) -o capitals
 *     ./capitals MODEL.gguf capitals.db lens.svg
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <km/kb.h>
#include <km/km.h>
#include <km/viz.h>

enum { N_FACTS = 6 };

static const char *const SUBJECTS[N_FACTS] = {"France", "Italy", "Japan",
                                              "Egypt",  "Spain", "Kenya"};
static const char *const CAPITALS[N_FACTS] = {"Paris", "Rome",   "Tokyo",
                                              "Cairo", "Madrid", "Nairobi"};

/* Every fact's candidates are the other capitals; the shuffled baseline takes the next fact. */
static km_status measure(km_table **out, const km_model *model, km_error *err) {
    static const char *const templates[] = {"The capital of {} is the city of"};
    const char *wrong[N_FACTS][N_FACTS - 1];
    km_recall_fact facts[N_FACTS];
    for (int i = 0; i < N_FACTS; i++) {
        for (int j = 1; j < N_FACTS; j++) {
            wrong[i][j - 1] = CAPITALS[(i + j) % N_FACTS];
        }
        facts[i] = (km_recall_fact){.id = SUBJECTS[i],
                                    .subject = SUBJECTS[i],
                                    .answers = &CAPITALS[i],
                                    .n_answers = 1,
                                    .candidates = wrong[i],
                                    .n_candidates = N_FACTS - 1,
                                    .shuffled = (i + 1) % N_FACTS};
    }
    const km_recall_relation relation = {.name = "capital",
                                         .templates = templates,
                                         .n_templates = 1,
                                         .subjectless = "the country",
                                         .facts = facts,
                                         .n_facts = N_FACTS};
    return km_memorization_run(out, model, &relation, NULL, NULL, NULL, err);
}

static void print_recall(const km_table *table) {
    const int subject = km_table_find(table, "subject");
    const int logp = km_table_find(table, "logp");
    const int rank = km_table_find(table, "rank");
    for (int64_t row = 0; row < km_table_rows(table); row++) {
        printf("%-8s log-probability %8.4f nats, rank %" PRId64 " of %d\n",
               km_table_text(table, subject, row, NULL), km_table_double(table, logp, row),
               km_table_int64(table, rank, row), N_FACTS);
    }
}

static km_status store(km_ctx *ctx, const char *path, const km_model *model, const km_table *table,
                       km_error *err) {
    km_kb *kb = NULL;
    km_status status = km_kb_open(&kb, ctx, path, NULL, err);
    char fingerprint[65], record[512];
    int64_t model_id = 0, run = 0;
    if (status == KM_OK) {
        status = km_model_fingerprint(fingerprint, model, err);
    }
    if (status == KM_OK) {
        snprintf(record, sizeof record, "{\"fingerprint\": \"%s\", \"name\": \"example\"}",
                 fingerprint);
        status = km_kb_put_model(&model_id, kb, record, strlen(record), err);
    }
    if (status == KM_OK) {
        snprintf(record, sizeof record,
                 "{\"measure\": \"%s\", \"version\": %d, \"parameters\": {}, \"model\": %" PRId64
                 "}",
                 KM_MEMORIZATION_ID, KM_MEMORIZATION_VERSION, model_id);
        status = km_kb_begin_run(&run, kb, record, strlen(record), err);
    }
    if (status == KM_OK) {
        km_kb_stored stored;
        snprintf(record, sizeof record, "example-capitals-%s", fingerprint);
        status = km_kb_store_chunk(&stored, kb, run, record, table, err);
    }
    if (status == KM_OK) {
        status = km_kb_finish_run(kb, run, "done", NULL, err);
    }
    km_kb_close(kb);
    return status;
}

static km_status write_file(const char *path, const km_picture *picture, km_error *err) {
    FILE *file = fopen(path, "wb");
    if (file == NULL) {
        return km_error_set_errno(err, errno, __FILE__, __func__, __LINE__, "%s", path);
    }
    size_t written = fwrite(picture->bytes, 1, picture->size, file);
    if (fclose(file) != 0 || written != picture->size) {
        return km_error_set_errno(err, errno, __FILE__, __func__, __LINE__, "%s", path);
    }
    return KM_OK;
}

/* A chain of one node a layer, labelled with the most probable next token there. */
static km_status draw(km_ctx *ctx, const char *path, const km_table *lens, km_error *err) {
    const km_graph_text text = {.title = "The capital of France, layer by layer",
                                .description = "Most probable next token after each block"};
    const int top = km_table_find(lens, "top_text");
    km_graph *graph = NULL;
    km_picture picture = KM_PICTURE_INIT;
    int64_t previous = -1;
    km_status status = km_graph_new(&graph, ctx, KM_LAYOUT_DOWN, &text, err);
    for (int64_t row = 0; status == KM_OK && row < km_table_rows(lens); row++) {
        km_graph_node node = KM_GRAPH_NODE_INIT;
        int64_t id = 0;
        node.label = km_table_text(lens, top, row, NULL);
        status = km_graph_add_node(&id, graph, &node, err);
        if (status == KM_OK && previous >= 0) {
            km_graph_edge edge = KM_GRAPH_EDGE_INIT;
            edge.from = previous;
            edge.to = id;
            status = km_graph_add_edge(NULL, graph, &edge, err);
        }
        previous = id;
    }
    if (status == KM_OK) {
        status = km_graph_render(&picture, graph, KM_FORMAT_SVG, KM_THEME_AUTO, 1.0, err);
    }
    if (status == KM_OK) {
        status = write_file(path, &picture, err);
    }
    km_picture_clear(&picture);
    km_graph_free(graph);
    return status;
}

static km_status follow(km_table **out, const km_model *model, km_error *err) {
    static const char prompt[] = "The capital of France is the city of";
    const km_tokenizer *tokenizer = km_model_tokenizer(model);
    km_tokens tokens = KM_TOKENS_INIT, answer = KM_TOKENS_INIT;
    const km_encode_options plain = {KM_BOS_NEVER, false};
    int32_t *ids = NULL;
    km_status status =
        km_tokenizer_encode(&tokens, tokenizer, prompt, sizeof prompt - 1, NULL, err);
    if (status == KM_OK) {
        status = km_tokenizer_encode(&answer, tokenizer, " Paris", 6, &plain, err);
    }
    if (status == KM_OK) {
        ids = malloc((size_t)tokens.n * sizeof *ids);
        status = ids != NULL ? KM_OK : KM_ENOMEM;
    }
    if (status == KM_OK) {
        for (int64_t i = 0; i < tokens.n; i++) {
            ids[i] = tokens.items[i].id;
        }
        status = km_lens_run(out, model, ids, tokens.n, answer.items[0].id, 1, err);
    }
    free(ids);
    km_tokens_clear(&tokens);
    km_tokens_clear(&answer);
    return status;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s MODEL.gguf OUT.db OUT.svg\n", argv[0]);
        return 2;
    }
    km_error err = KM_ERROR_INIT;
    km_ctx *ctx = NULL;
    km_model *model = NULL;
    km_table *recall = NULL, *lens = NULL;
    km_status status = km_ctx_new(&ctx, NULL, &err);
    if (status == KM_OK) {
        status = km_model_load(&model, ctx, argv[1], NULL, &err);
    }
    if (status == KM_OK) {
        status = measure(&recall, model, &err);
    }
    if (status == KM_OK) {
        print_recall(recall);
        status = store(ctx, argv[2], model, recall, &err);
    }
    if (status == KM_OK) {
        status = follow(&lens, model, &err);
    }
    if (status == KM_OK) {
        status = draw(ctx, argv[3], lens, &err);
    }
    if (status != KM_OK) {
        fprintf(stderr, "%s: %s\n", km_status_name(status), err.message);
    }
    km_table_free(lens);
    km_table_free(recall);
    km_model_free(model);
    km_ctx_free(ctx);
    return status == KM_OK ? 0 : 1;
}
