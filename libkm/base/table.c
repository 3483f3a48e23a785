/* table.c: typed columns that grow a row at a time.
 *
 * The storage is Arrow's from the start: a bit a row that says whether the cell is set, eight
 * bytes a number, a bit a truth value, and for texts n + 1 offsets into one block of bytes. So
 * an export hands out the storage as it is. Null cells hold 0, NaN, false or an empty text. The
 * table counts its exports and refuses to grow while one lives, because growing may move the
 * storage.
 */
#include "km/table.h"

#include <math.h>
#include <string.h>

#include "base/table_private.h"

static const char *type_name(km_column_type type) {
    static const char *const names[] = {"int64", "double", "bool", "text"};
    return names[type];
}

/* Room for `size` bytes; growth by half again keeps appending linear. */
static km_status reserve(km__bytes *bytes, km_ctx *ctx, size_t size, km_error *err) {
    if (size <= bytes->capacity) {
        return KM_OK;
    }
    size_t capacity = bytes->capacity + bytes->capacity / 2;
    capacity = capacity < size ? size : capacity;
    capacity = capacity < 64 ? 64 : capacity;
    void *data = bytes->data;
    KM_TRY(km_realloc(&data, ctx, capacity, err));
    bytes->data = data;
    bytes->capacity = capacity;
    return KM_OK;
}

static bool get_bit(const km__bytes *bits, int64_t row) {
    return (bits->data[row >> 3] >> (row & 7) & 1) != 0;
}

static void put_bit(km__bytes *bits, int64_t row, bool value) {
    unsigned int mask = 1u << (row & 7);
    unsigned int byte = bits->data[row >> 3];
    bits->data[row >> 3] = (unsigned char)(value ? byte | mask : byte & ~mask);
}

static void put_8(km__bytes *bytes, int64_t index, const void *value) {
    memcpy(bytes->data + (size_t)index * 8, value, 8);
}

static int64_t text_offset(const km__column *column, int64_t row) {
    int64_t offset;
    memcpy(&offset, column->values.data + (size_t)row * 8, 8);
    return offset;
}

static size_t values_size(const km__column *column, int64_t n_rows) {
    switch (column->spec.type) {
    case KM_COLUMN_BOOL:
        return (size_t)(n_rows + 7) / 8;
    case KM_COLUMN_TEXT:
        return (size_t)(n_rows + 1) * 8;
    default:
        return (size_t)n_rows * 8;
    }
}

static km_status reserve_rows(km_table *table, int64_t n_rows, km_error *err) {
    for (int i = 0; i < table->n_columns; i++) {
        km__column *column = &table->columns[i];
        KM_TRY(reserve(&column->valid, table->ctx, (size_t)(n_rows + 7) / 8, err));
        KM_TRY(reserve(&column->values, table->ctx, values_size(column, n_rows), err));
    }
    return KM_OK;
}

static void set_null(km__column *column, int64_t row) {
    static const int64_t zero = 0;
    static const double nan_value = NAN;
    int64_t end = (int64_t)column->text.size;
    put_bit(&column->valid, row, false);
    switch (column->spec.type) {
    case KM_COLUMN_INT64:
        put_8(&column->values, row, &zero);
        break;
    case KM_COLUMN_DOUBLE:
        put_8(&column->values, row, &nan_value);
        break;
    case KM_COLUMN_BOOL:
        put_bit(&column->values, row, false);
        break;
    case KM_COLUMN_TEXT:
        put_8(&column->values, row + 1, &end);
        break;
    }
}

/* An exported array shares the storage, so the storage must not move any more. */
static km_status check_writable(const km_table *table, km_error *err) {
    if (atomic_load(&table->refs) > 1) {
        return KM_SET(err, KM_ESTATE, "the table has been exported and can no longer change");
    }
    return KM_OK;
}

static bool has_cell(const km_table *table, int column, int64_t row) {
    return column >= 0 && column < table->n_columns && row >= 0 && row < table->n_rows;
}

/* The column of a cell of the last row that is about to be set. */
static km_status find_cell(km__column **out, km_table *table, int column, km_column_type type,
                           km_error *err) {
    KM_TRY(check_writable(table, err));
    if (!has_cell(table, column, table->n_rows - 1)) {
        return KM_SET(err, KM_EINVAL, "no cell in column %d of a table of %lld rows and %d columns",
                      column, (long long)table->n_rows, table->n_columns);
    }
    km__column *found = &table->columns[column];
    if (found->spec.type != type) {
        return KM_SET(err, KM_EINVAL, "column '%s' holds %s, not %s", found->spec.name,
                      type_name(found->spec.type), type_name(type));
    }
    *out = found;
    return KM_OK;
}

static void mark_valid(km_table *table, km__column *column) {
    int64_t row = table->n_rows - 1;
    if (!get_bit(&column->valid, row)) {
        put_bit(&column->valid, row, true);
        column->n_nulls--;
    }
}

static km_status copy_spec(km__column *column, km_ctx *ctx, const km_column_spec *spec,
                           km_error *err) {
    char *name = NULL, *unit = NULL, *description = NULL;
    column->spec.type = spec->type;
    KM_TRY(km_strdup(&name, ctx, spec->name, err));
    column->spec.name = name;
    KM_TRY(km_strdup(&unit, ctx, spec->unit != NULL ? spec->unit : "", err));
    column->spec.unit = unit;
    KM_TRY(km_strdup(&description, ctx, spec->description != NULL ? spec->description : "", err));
    column->spec.description = description;
    return KM_OK;
}

static km_status check_spec(const km_column_spec *specs, int index, km_error *err) {
    const km_column_spec *spec = &specs[index];
    if (spec->name == NULL || spec->name[0] == '\0') {
        return KM_SET(err, KM_EINVAL, "column %d has no name", index);
    }
    if ((unsigned int)spec->type > (unsigned int)KM_COLUMN_TEXT) {
        return KM_SET(err, KM_EINVAL, "column '%s' has no such type: %d", spec->name,
                      (int)spec->type);
    }
    for (int i = 0; i < index; i++) {
        if (strcmp(specs[i].name, spec->name) == 0) {
            return KM_SET(err, KM_EINVAL, "two columns are named '%s'", spec->name);
        }
    }
    return KM_OK;
}

static bool same_columns(const km_table *a, const km_table *b) {
    bool same = a->n_columns == b->n_columns;
    for (int i = 0; same && i < a->n_columns; i++) {
        same = a->columns[i].spec.type == b->columns[i].spec.type &&
               strcmp(a->columns[i].spec.name, b->columns[i].spec.name) == 0;
    }
    return same;
}

/* With the rows reserved: copy one column of `more` behind the same column of `table`. */
static void append_column(km_table *table, km__column *to, const km__column *from, int64_t n) {
    int64_t base = table->n_rows;
    int64_t shift = (int64_t)to->text.size;
    if (to->spec.type == KM_COLUMN_INT64 || to->spec.type == KM_COLUMN_DOUBLE) {
        memcpy(to->values.data + (size_t)base * 8, from->values.data, (size_t)n * 8);
    }
    for (int64_t row = 0; row < n; row++) {
        put_bit(&to->valid, base + row, get_bit(&from->valid, row));
        if (to->spec.type == KM_COLUMN_BOOL) {
            put_bit(&to->values, base + row, get_bit(&from->values, row));
        } else if (to->spec.type == KM_COLUMN_TEXT) {
            int64_t end = shift + text_offset(from, row + 1);
            put_8(&to->values, base + row + 1, &end);
        }
    }
    if (from->text.size > 0) {
        memcpy(to->text.data + to->text.size, from->text.data, from->text.size);
    }
    to->text.size += from->text.size;
    to->n_nulls += from->n_nulls;
}

static void free_column(km_ctx *ctx, km__column *column) {
    km_free(ctx, (void *)(uintptr_t)column->spec.name);
    km_free(ctx, (void *)(uintptr_t)column->spec.unit);
    km_free(ctx, (void *)(uintptr_t)column->spec.description);
    km_free(ctx, column->valid.data);
    km_free(ctx, column->values.data);
    km_free(ctx, column->text.data);
}

km_status km_table_new(km_table **out, km_ctx *ctx, const km_column_spec *specs, int n_columns,
                       km_error *err) {
    static const int64_t zero = 0;
    if (n_columns < 1) {
        return KM_SET(err, KM_EINVAL, "a table of %d columns", n_columns);
    }
    void *block = NULL, *columns = NULL;
    KM_TRY(km_alloc_array(&block, ctx, 1, sizeof(km_table), err));
    km_table *table = block;
    atomic_init(&table->refs, 1);
    table->ctx = km__ctx_ref(ctx);
    km_status status = KM_OK;
    KM_GO(km_alloc_array(&columns, ctx, n_columns, sizeof(km__column), err));
    table->columns = columns;
    table->n_columns = n_columns;
    for (int i = 0; i < n_columns; i++) {
        KM_GO(check_spec(specs, i, err));
        KM_GO(copy_spec(&table->columns[i], ctx, &specs[i], err));
    }
    KM_GO(reserve_rows(table, 1, err));
    for (int i = 0; i < n_columns; i++) {
        if (specs[i].type == KM_COLUMN_TEXT) {
            put_8(&table->columns[i].values, 0, &zero);
        }
    }
    *out = table;
done:
    if (status != KM_OK) {
        km_table_free(table);
    }
    return status;
}

km_table *km__table_ref(const km_table *table) {
    km_table *shared = (km_table *)(uintptr_t)table;
    atomic_fetch_add(&shared->refs, 1);
    return shared;
}

void km__table_unref(km_table *table) {
    if (atomic_fetch_sub(&table->refs, 1) > 1) {
        return;
    }
    km_ctx *ctx = table->ctx;
    for (int i = 0; i < table->n_columns; i++) {
        free_column(ctx, &table->columns[i]);
    }
    km_free(ctx, table->columns);
    km_free(ctx, table);
    km_ctx_free(ctx);
}

void km_table_free(km_table *table) {
    if (table != NULL) {
        km__table_unref(table);
    }
}

km_status km_table_add_row(km_table *table, km_error *err) {
    KM_TRY(check_writable(table, err));
    KM_TRY(reserve_rows(table, table->n_rows + 1, err));
    for (int i = 0; i < table->n_columns; i++) {
        set_null(&table->columns[i], table->n_rows);
        table->columns[i].n_nulls++;
    }
    table->n_rows++;
    return KM_OK;
}

km_status km_table_set_int64(km_table *table, int column, int64_t value, km_error *err) {
    km__column *cell;
    KM_TRY(find_cell(&cell, table, column, KM_COLUMN_INT64, err));
    put_8(&cell->values, table->n_rows - 1, &value);
    mark_valid(table, cell);
    return KM_OK;
}

km_status km_table_set_double(km_table *table, int column, double value, km_error *err) {
    km__column *cell;
    KM_TRY(find_cell(&cell, table, column, KM_COLUMN_DOUBLE, err));
    put_8(&cell->values, table->n_rows - 1, &value);
    mark_valid(table, cell);
    return KM_OK;
}

km_status km_table_set_bool(km_table *table, int column, bool value, km_error *err) {
    km__column *cell;
    KM_TRY(find_cell(&cell, table, column, KM_COLUMN_BOOL, err));
    put_bit(&cell->values, table->n_rows - 1, value);
    mark_valid(table, cell);
    return KM_OK;
}

km_status km_table_set_text(km_table *table, int column, const char *text, int64_t n,
                            km_error *err) {
    km__column *cell;
    KM_TRY(find_cell(&cell, table, column, KM_COLUMN_TEXT, err));
    size_t length = n < 0 ? strlen(text) : (size_t)n;
    if (!km_utf8_valid(text, length)) {
        return KM_SET(err, KM_EINVAL, "column '%s': the text is not valid UTF-8", cell->spec.name);
    }
    size_t start = (size_t)text_offset(cell, table->n_rows - 1);
    size_t size;
    if (!km_size_add(&size, start, length) || !km_size_add(&size, size, 1)) {
        return KM_SET(err, KM_ENOMEM, "a text of %zu bytes", length);
    }
    KM_TRY(reserve(&cell->text, table->ctx, size, err));
    if (length > 0) {
        memcpy(cell->text.data + start, text, length);
    }
    cell->text.data[start + length] = '\0';
    cell->text.size = size;
    int64_t end = (int64_t)size;
    put_8(&cell->values, table->n_rows, &end);
    mark_valid(table, cell);
    return KM_OK;
}

km_status km_table_append(km_table *table, const km_table *more, km_error *err) {
    KM_TRY(check_writable(table, err));
    if (table == more || !same_columns(table, more)) {
        return KM_SET(err, KM_EINVAL,
                      table == more ? "a table cannot be appended to itself"
                                    : "the tables have different columns");
    }
    int64_t n = more->n_rows;
    KM_TRY(reserve_rows(table, table->n_rows + n, err));
    for (int i = 0; i < table->n_columns; i++) {
        km__column *to = &table->columns[i];
        KM_TRY(reserve(&to->text, table->ctx, to->text.size + more->columns[i].text.size, err));
    }
    for (int i = 0; i < table->n_columns; i++) {
        append_column(table, &table->columns[i], &more->columns[i], n);
    }
    table->n_rows += n;
    return KM_OK;
}

int64_t km_table_rows(const km_table *table) {
    return table->n_rows;
}

int km_table_columns(const km_table *table) {
    return table->n_columns;
}

const km_column_spec *km_table_spec(const km_table *table, int column) {
    return column >= 0 && column < table->n_columns ? &table->columns[column].spec : NULL;
}

int km_table_find(const km_table *table, const char *name) {
    for (int i = 0; i < table->n_columns; i++) {
        if (strcmp(table->columns[i].spec.name, name) == 0) {
            return i;
        }
    }
    return -1;
}

bool km_table_is_null(const km_table *table, int column, int64_t row) {
    return !has_cell(table, column, row) || !get_bit(&table->columns[column].valid, row);
}

int64_t km_table_int64(const km_table *table, int column, int64_t row) {
    int64_t value = 0;
    if (!km_table_is_null(table, column, row) &&
        table->columns[column].spec.type == KM_COLUMN_INT64) {
        memcpy(&value, table->columns[column].values.data + (size_t)row * 8, 8);
    }
    return value;
}

double km_table_double(const km_table *table, int column, int64_t row) {
    double value = NAN;
    if (!km_table_is_null(table, column, row) &&
        table->columns[column].spec.type == KM_COLUMN_DOUBLE) {
        memcpy(&value, table->columns[column].values.data + (size_t)row * 8, 8);
    }
    return value;
}

bool km_table_bool(const km_table *table, int column, int64_t row) {
    return !km_table_is_null(table, column, row) &&
           table->columns[column].spec.type == KM_COLUMN_BOOL &&
           get_bit(&table->columns[column].values, row);
}

const char *km_table_text(const km_table *table, int column, int64_t row, int64_t *n) {
    const char *text = "";
    int64_t length = 0;
    if (!km_table_is_null(table, column, row) &&
        table->columns[column].spec.type == KM_COLUMN_TEXT) {
        const km__column *cell = &table->columns[column];
        int64_t start = text_offset(cell, row);
        length = text_offset(cell, row + 1) - start - 1;
        text = (const char *)cell->text.data + start;
    }
    if (n != NULL) {
        *n = length;
    }
    return text;
}
