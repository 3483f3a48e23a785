/* table_arrow.c: a table as an Arrow C stream of one batch. Numbers, booleans and null bits are
 * shared with the table; texts are packed, because Arrow has no room for the NUL behind each.
 * Every exported struct holds its own reference, as consumers may move children out of a parent. */
#include "km/arrow.h"

#include <errno.h>
#include <string.h>

#include "base/table_private.h"

typedef struct schema_private {
    km_table *table;
    char *metadata;
    struct ArrowSchema *children; /* the structs the pointers of the public array point to */
} schema_private;

typedef struct array_private {
    km_table *table;
    void *offsets, *text; /* packed copies of a text column */
    const void *buffers[3];
    struct ArrowArray *children;
} array_private;

typedef struct stream_private {
    km_table *table;
    bool done;
    km_error error;
} stream_private;

/* ---- schema ---- */

static void release_schema(struct ArrowSchema *schema) {
    schema_private *own = schema->private_data;
    km_ctx *ctx = km__ctx_ref(own->table->ctx);
    for (int64_t i = 0; i < schema->n_children; i++) {
        if (schema->children[i]->release != NULL) {
            schema->children[i]->release(schema->children[i]);
        }
    }
    km_free(ctx, schema->children);
    km_free(ctx, own->children);
    km_free(ctx, own->metadata);
    km__table_unref(own->table);
    km_free(ctx, own);
    km_ctx_free(ctx);
    schema->release = NULL;
}

static char *put_text(char *at, const char *text) {
    int32_t n = (int32_t)strlen(text);
    memcpy(at, &n, sizeof n);
    memcpy(at + sizeof n, text, (size_t)n);
    return at + sizeof n + n;
}

/* Arrow's metadata: the number of pairs, then each key and value with its length in front, all in
 * native 32-bit integers. */
static km_status make_metadata(char **out, km_ctx *ctx, const km_column_spec *spec, km_error *err) {
    static const int32_t n_pairs = 2;
    size_t size = 5 * sizeof(int32_t) + strlen("unit") + strlen(spec->unit) +
                  strlen("description") + strlen(spec->description);
    void *block = NULL;
    KM_TRY(km_alloc(&block, ctx, size, err));
    char *at = block;
    memcpy(at, &n_pairs, sizeof n_pairs);
    at = put_text(at + sizeof n_pairs, "unit");
    at = put_text(at, spec->unit);
    at = put_text(at, "description");
    (void)put_text(at, spec->description);
    *out = block;
    return KM_OK;
}

/* A releasable schema without children. */
static km_status start_schema(struct ArrowSchema *out, const km_table *table, const char *format,
                              const char *name, km_error *err) {
    void *own = NULL;
    KM_TRY(km_alloc_array(&own, table->ctx, 1, sizeof(schema_private), err));
    ((schema_private *)own)->table = km__table_ref(table);
    *out = (struct ArrowSchema){
        .format = format, .name = name, .release = release_schema, .private_data = own};
    return KM_OK;
}

static km_status export_field(struct ArrowSchema *out, const km_table *table, int column,
                              km_error *err) {
    static const char *const formats[] = {"l", "g", "b", "U"};
    const km_column_spec *spec = &table->columns[column].spec;
    KM_TRY(start_schema(out, table, formats[spec->type], spec->name, err));
    out->flags = ARROW_FLAG_NULLABLE;
    schema_private *own = out->private_data;
    KM_TRY(make_metadata(&own->metadata, table->ctx, spec, err));
    out->metadata = own->metadata;
    return KM_OK;
}

static km_status export_schema(struct ArrowSchema *out, const km_table *table, km_error *err) {
    struct ArrowSchema schema = {.release = NULL};
    void *children = NULL, *pointers = NULL;
    km_status status = KM_OK;
    KM_GO(start_schema(&schema, table, "+s", "", err));
    KM_GO(km_alloc_array(&children, table->ctx, table->n_columns, sizeof schema, err));
    ((schema_private *)schema.private_data)->children = children;
    KM_GO(km_alloc_array(&pointers, table->ctx, table->n_columns, sizeof(void *), err));
    schema.children = pointers;
    for (int i = 0; i < table->n_columns; i++) {
        schema.children[i] = (struct ArrowSchema *)children + i;
        schema.n_children++;
        KM_GO(export_field(schema.children[i], table, i, err));
    }
    *out = schema;
done:
    if (status != KM_OK && schema.release != NULL) {
        schema.release(&schema);
    }
    return status;
}

/* ---- array ---- */

static void release_array(struct ArrowArray *array) {
    array_private *own = array->private_data;
    km_ctx *ctx = km__ctx_ref(own->table->ctx);
    for (int64_t i = 0; i < array->n_children; i++) {
        if (array->children[i]->release != NULL) {
            array->children[i]->release(array->children[i]);
        }
    }
    km_free(ctx, array->children);
    km_free(ctx, own->children);
    km_free(ctx, own->offsets);
    km_free(ctx, own->text);
    km__table_unref(own->table);
    km_free(ctx, own);
    km_ctx_free(ctx);
    array->release = NULL;
}

static km_status start_array(struct ArrowArray *out, const km_table *table, int64_t n_buffers,
                             km_error *err) {
    void *block = NULL;
    KM_TRY(km_alloc_array(&block, table->ctx, 1, sizeof(array_private), err));
    array_private *own = block;
    own->table = km__table_ref(table);
    *out = (struct ArrowArray){.length = table->n_rows,
                               .n_buffers = n_buffers,
                               .buffers = own->buffers,
                               .release = release_array,
                               .private_data = own};
    return KM_OK;
}

/* Texts one behind the other without their NULs, and the offsets where each starts. */
static km_status pack_text(array_private *own, const km_table *table, int column, km_error *err) {
    size_t upper = table->columns[column].text.size;
    KM_TRY(km_alloc_array(&own->offsets, table->ctx, table->n_rows + 1, sizeof(int64_t), err));
    KM_TRY(km_alloc(&own->text, table->ctx, upper, err));
    int64_t *offsets = own->offsets;
    for (int64_t row = 0; row < table->n_rows; row++) {
        int64_t n;
        const char *text = km_table_text(table, column, row, &n);
        if (n > 0) {
            memcpy((char *)own->text + offsets[row], text, (size_t)n);
        }
        offsets[row + 1] = offsets[row] + n;
    }
    return KM_OK;
}

static km_status export_column(struct ArrowArray *out, const km_table *table, int column,
                               km_error *err) {
    const km__column *source = &table->columns[column];
    bool is_text = source->spec.type == KM_COLUMN_TEXT;
    KM_TRY(start_array(out, table, is_text ? 3 : 2, err));
    array_private *own = out->private_data;
    out->null_count = source->n_nulls;
    own->buffers[0] = source->n_nulls > 0 ? source->valid.data : NULL;
    own->buffers[1] = source->values.data;
    if (is_text) {
        KM_TRY(pack_text(own, table, column, err));
        own->buffers[1] = own->offsets;
        own->buffers[2] = own->text;
    }
    return KM_OK;
}

static km_status export_batch(struct ArrowArray *out, const km_table *table, km_error *err) {
    struct ArrowArray batch = {.release = NULL};
    void *children = NULL, *pointers = NULL;
    km_status status = KM_OK;
    KM_GO(start_array(&batch, table, 1, err));
    KM_GO(km_alloc_array(&children, table->ctx, table->n_columns, sizeof batch, err));
    ((array_private *)batch.private_data)->children = children;
    KM_GO(km_alloc_array(&pointers, table->ctx, table->n_columns, sizeof(void *), err));
    batch.children = pointers;
    for (int i = 0; i < table->n_columns; i++) {
        batch.children[i] = (struct ArrowArray *)children + i;
        batch.n_children++;
        KM_GO(export_column(batch.children[i], table, i, err));
    }
    *out = batch;
done:
    if (status != KM_OK && batch.release != NULL) {
        batch.release(&batch);
    }
    return status;
}

/* ---- stream ---- */

static int stream_schema(struct ArrowArrayStream *stream, struct ArrowSchema *out) {
    stream_private *own = stream->private_data;
    km_error_clear(&own->error);
    return export_schema(out, own->table, &own->error) == KM_OK ? 0 : ENOMEM;
}

static int stream_next(struct ArrowArrayStream *stream, struct ArrowArray *out) {
    stream_private *own = stream->private_data;
    km_error_clear(&own->error);
    if (own->done) {
        *out = (struct ArrowArray){.release = NULL};
        return 0;
    }
    if (export_batch(out, own->table, &own->error) != KM_OK) {
        return ENOMEM;
    }
    own->done = true;
    return 0;
}

static const char *stream_last_error(struct ArrowArrayStream *stream) {
    const stream_private *own = stream->private_data;
    return own->error.code != KM_OK ? own->error.message : NULL;
}

static void stream_release(struct ArrowArrayStream *stream) {
    stream_private *own = stream->private_data;
    km_ctx *ctx = km__ctx_ref(own->table->ctx);
    km__table_unref(own->table);
    km_free(ctx, own);
    km_ctx_free(ctx);
    stream->release = NULL;
}

km_status km_table_export_stream(struct ArrowArrayStream *out, const km_table *table,
                                 km_error *err) {
    void *block = NULL;
    KM_TRY(km_alloc_array(&block, table->ctx, 1, sizeof(stream_private), err));
    stream_private *own = block;
    own->table = km__table_ref(table);
    *out = (struct ArrowArrayStream){stream_schema, stream_next, stream_last_error, stream_release,
                                     own};
    return KM_OK;
}
