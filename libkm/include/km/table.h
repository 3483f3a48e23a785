/* km/table.h: typed columns with names, units and nulls; what every measure returns.
 *
 * A table owns its columns. Text is UTF-8. Tables leave the process through the Arrow C data
 * interface (km_table_export_stream): numbers are shared, texts packed. A table is used by one
 * thread at a time while it is built and may be read by many once it is finished; while an export
 * of it lives, changing it is refused with KM_ESTATE.
 */
#ifndef KM_TABLE_H
#define KM_TABLE_H

#include "km/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct km_table km_table;

typedef enum km_column_type {
    KM_COLUMN_INT64 = 0,
    KM_COLUMN_DOUBLE,
    KM_COLUMN_BOOL,
    KM_COLUMN_TEXT
} km_column_type;

typedef struct km_column_spec {
    const char *name; /* snake_case, unique */
    km_column_type type;
    const char *unit;        /* "nats", "probability", "rank", "layers", "" ... */
    const char *description; /* one sentence */
} km_column_spec;

/* A table with the given columns and no rows; specs are copied. */
KM_API KM_NODISCARD km_status km_table_new(km_table **out, km_ctx *ctx, const km_column_spec *specs,
                                           int n_columns, km_error *err);
/* Free the table; an export of it that lives keeps the data. NULL is a no-op. */
KM_API void km_table_free(km_table *table);

/* Start a row with every cell null. */
KM_API KM_NODISCARD km_status km_table_add_row(km_table *table, km_error *err);
/* Set a cell of the last row. Errors: KM_EINVAL for a column that is not there or of another type
 * or a table without rows, KM_ESTATE while an export lives. The same for the three after it. */
KM_API KM_NODISCARD km_status km_table_set_int64(km_table *table, int column, int64_t value,
                                                 km_error *err);
/* A real number; NaN and infinities are values, not nulls. */
KM_API KM_NODISCARD km_status km_table_set_double(km_table *table, int column, double value,
                                                  km_error *err);
/* A truth value. */
KM_API KM_NODISCARD km_status km_table_set_bool(km_table *table, int column, bool value,
                                                km_error *err);
/* A text of n bytes of UTF-8, which is copied; n = -1: NUL-terminated. */
KM_API KM_NODISCARD km_status km_table_set_text(km_table *table, int column, const char *text,
                                                int64_t n, km_error *err);
/* Append all rows of `more`, which must have the same columns in the same order. */
KM_API KM_NODISCARD km_status km_table_append(km_table *table, const km_table *more, km_error *err);

/* Number of rows. */
KM_API int64_t km_table_rows(const km_table *table);
/* Number of columns. */
KM_API int km_table_columns(const km_table *table);
/* Name, type, unit and description of a column; its strings live as long as the table. */
KM_API const km_column_spec *km_table_spec(const km_table *table, int column);
/* Index of a column by name, -1 when absent. */
KM_API int km_table_find(const km_table *table, const char *name);
/* Whether a cell was never set. */
KM_API bool km_table_is_null(const km_table *table, int column, int64_t row);
/* The cell of an int64 column; 0 where null. */
KM_API int64_t km_table_int64(const km_table *table, int column, int64_t row);
/* The cell of a double column; NaN where null. */
KM_API double km_table_double(const km_table *table, int column, int64_t row);
/* The cell of a bool column; false where null. */
KM_API bool km_table_bool(const km_table *table, int column, int64_t row);
/* The cell of a text column, NUL-terminated, its bytes in *n when n is not NULL; "" where null.
 * Borrowed until the table changes. */
KM_API const char *km_table_text(const km_table *table, int column, int64_t row, int64_t *n);

/* Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html). The structs
 * are the ABI's own and defined in km/arrow.h. */
struct ArrowSchema;
struct ArrowArrayStream;
/* Fill a caller-owned stream with one batch; the stream keeps the data alive after km_table_free
 * (the table's storage is reference counted). Field metadata carries unit and description. */
KM_API KM_NODISCARD km_status km_table_export_stream(struct ArrowArrayStream *out,
                                                     const km_table *table, km_error *err);

#ifdef __cplusplus
}
#endif

#endif
