/* table_private.h: the storage behind km_table, shared by the table and its Arrow export. */
#ifndef KM_BASE_TABLE_PRIVATE_H
#define KM_BASE_TABLE_PRIVATE_H

#include <stdatomic.h>

#include "base/ctx_private.h"
#include "km/table.h"

typedef struct km__bytes {
    unsigned char *data;
    size_t size, capacity;
} km__bytes;

typedef struct km__column {
    km_column_spec spec; /* strings owned by the column */
    int64_t n_nulls;
    km__bytes valid;  /* one bit a row, lowest first; 1: not null */
    km__bytes values; /* 8 bytes a row; bits for BOOL; n_rows + 1 int64 offsets for TEXT */
    km__bytes text;   /* TEXT: each value followed by a NUL; a null takes no bytes */
} km__column;

struct km_table {
    atomic_int refs; /* the handle's and one for each exported array */
    km_ctx *ctx;     /* holds a reference */
    int64_t n_rows;
    int n_columns;
    km__column *columns;
};

km_table *km__table_ref(const km_table *table);
void km__table_unref(km_table *table);

#endif
