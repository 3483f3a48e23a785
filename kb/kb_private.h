/* kb_private.h: what the files of the knowledge base share: the connection, statements that turn
 * SQLite's result codes into km errors, nested transactions, JSON records. Private to kb and its
 * tests. */
#ifndef KM_KB_PRIVATE_H
#define KM_KB_PRIVATE_H

#include <jansson.h>
#include <sqlite3.h>
#include <sys/types.h>

#include "base/base.h"
#include "km/kb.h"

#define KM_KB_APPLICATION_ID 0x6b6d6b62 /* "kmkb" */

struct km_kb {
    km_ctx *ctx;
    sqlite3 *db;
    char *path;
    bool read_only;
    int depth;       /* of nested transactions */
    bool user_sql;   /* running a statement the user wrote: mistakes in it are KM_EINVAL */
    int64_t stop_ns; /* monotonic time at which a user's statement is stopped */
    pid_t pid;       /* the process that opened the file */
    char warning[256];
};

/* ---- sqlite.c ---- */

/* Translate the connection's last error. */
km_status km__kb_error(const km_kb *kb, int rc, const char *what, km_error *err);
/* KM_ESTATE in a child of the process that opened the base. */
KM_NODISCARD km_status km__kb_ready(const km_kb *kb, km_error *err);
/* As km__kb_ready, and KM_EIO with EROFS when the base is read-only. */
KM_NODISCARD km_status km__kb_writable(const km_kb *kb, km_error *err);
KM_NODISCARD km_status km__kb_prepare(sqlite3_stmt **out, km_kb *kb, const char *sql,
                                      km_error *err);
/* *row tells whether a row was reached. */
KM_NODISCARD km_status km__kb_step(bool *row, km_kb *kb, sqlite3_stmt *stmt, km_error *err);
/* Step a statement that gives no row, and reset it for the next bindings. */
KM_NODISCARD km_status km__kb_run(km_kb *kb, sqlite3_stmt *stmt, km_error *err);
KM_NODISCARD km_status km__kb_exec(km_kb *kb, const char *sql, km_error *err);
/* First column of the first row of a statement with up to two text parameters (NULL: none).
 * *found false and *out 0 without a row or with a null. */
KM_NODISCARD km_status km__kb_scalar(int64_t *out, bool *found, km_kb *kb, const char *sql,
                                     const char *a, const char *b, km_error *err);
KM_NODISCARD km_status km__kb_bind_text(km_kb *kb, sqlite3_stmt *stmt, int index, const char *text,
                                        int64_t n, km_error *err);
KM_NODISCARD km_status km__kb_bind_int(km_kb *kb, sqlite3_stmt *stmt, int index, int64_t value,
                                       km_error *err);
/* End the transaction opened by the last km_kb_begin: commit when status is KM_OK, else undo. */
km_status km__kb_end(km_kb *kb, km_status status, km_error *err);

/* ---- migrate.c ---- */

typedef struct km__kb_migration {
    int version;
    const char *sql;
} km__kb_migration;
/* Bring the file to the newest of n migrations in one transaction; sets application_id. */
KM_NODISCARD km_status km__kb_migrate(km_kb *kb, const km__kb_migration *migrations, int n,
                                      km_error *err);

/* ---- open.c ---- */

typedef enum km__kb_fs { KM__KB_FS_LOCAL, KM__KB_FS_UNSURE, KM__KB_FS_NETWORK } km__kb_fs;
/* What statfs's magic number says about file locks; *name is static. */
km__kb_fs km__kb_filesystem(const char **name, uint32_t magic);

/* ---- record.c: JSON objects as rows ---- */

typedef enum km__kb_kind {
    KM__KB_TEXT,
    KM__KB_INT,
    KM__KB_REAL,
    KM__KB_OBJECT, /* stored as canonical JSON text */
    KM__KB_ARRAY,
    KM__KB_SCALAR /* a number or a text */
} km__kb_kind;
typedef struct km__kb_field {
    const char *name;
    km__kb_kind kind;
    bool required;
} km__kb_field;

/* Parse n bytes of JSON that must be an object (array false) or an array of objects. */
KM_NODISCARD km_status km__kb_parse(json_t **out, const char *what, const char *json, size_t n,
                                    bool array, km_error *err);
/* Parse and begin a transaction, which km__kb_end ends; after a failure nothing is owned. */
KM_NODISCARD km_status km__kb_begin_with(json_t **out, km_kb *kb, const char *what,
                                         const char *json, size_t n, bool array, km_error *err);
/* Bind field i of an object to parameter i + 1. `what` and `index` (or -1) name it in messages. */
KM_NODISCARD km_status km__kb_bind_record(km_kb *kb, sqlite3_stmt *stmt, const km__kb_field *fields,
                                          int n_fields, json_t *object, const char *what,
                                          int64_t index, km_error *err);
/* Insert each object of a JSON array with `sql`; *n_new counts the rows that were new. */
KM_NODISCARD km_status km__kb_insert_records(int64_t *n_new, km_kb *kb, const char *sql,
                                             const km__kb_field *fields, int n_fields,
                                             json_t *array, const char *what, km_error *err);

/* ---- encode.c: rows of tables as JSON ---- */

typedef struct km__kb_text {
    km_ctx *ctx;
    char *data; /* NUL-terminated once something was added */
    size_t n;
    size_t capacity;
} km__kb_text;
void km__kb_text_free(km__kb_text *text);
KM_NODISCARD km_status km__kb_text_add(km__kb_text *text, const char *data, size_t n,
                                       km_error *err);
/* What all rows of a table share when they are written. */
typedef struct km__kb_encoder {
    const km_table *table; /* borrowed */
    km__kb_text names;
    size_t *ends; /* where the text before each column's value ends in `names` */
} km__kb_encoder;
KM_NODISCARD km_status km__kb_encoder_init(km__kb_encoder *encoder, km_ctx *ctx,
                                           const km_table *table, km_error *err);
void km__kb_encoder_free(km__kb_encoder *encoder);
/* The columns of a table as a JSON array; row `row` as a JSON object. Both replace the text. */
KM_NODISCARD km_status km__kb_encode_columns(km__kb_text *text, const km_table *table,
                                             km_error *err);
KM_NODISCARD km_status km__kb_encode_row(km__kb_text *text, const km__kb_encoder *encoder,
                                         int64_t row, km_error *err);
KM_NODISCARD km_status km__kb_decode_columns(km_table **out, km_ctx *ctx, const char *json,
                                             size_t n, km_error *err);
/* Append one row given as a JSON object. */
KM_NODISCARD km_status km__kb_decode_row(km_table *table, const char *json, size_t n,
                                         km_error *err);

/* ---- ledger.c ---- */

/* Keep a prediction or a unit given as its canonical JSON text, inside a transaction; `digest` is
 * of exactly these bytes. The rules of km_kb_freeze hold. */
KM_NODISCARD km_status km__kb_put_prediction(char digest[65], km_kb *kb, const json_t *text,
                                             km_error *err);
KM_NODISCARD km_status km__kb_put_unit(char digest[65], km_kb *kb, const json_t *text,
                                       const char *model, km_error *err);
/* KM_EINVAL, saying why, when a run cannot count for a frozen prediction. */
KM_NODISCARD km_status km__kb_check_counts(km_kb *kb, int64_t freezing, int64_t run, km_error *err);

/* ---- merge.c, merge_ledger.c: inside a merge, which has staged their_... and run_map ---- */

/* Put a line on the list of what happened: "added", "differs", "refused". */
KM_NODISCARD km_status km__kb_merge_note(km_kb *kb, const char *what, const char *outcome,
                                         int64_t n, const char *key, const char *theirs,
                                         km_error *err);
/* The line for n new rows; none for 0. */
KM_NODISCARD km_status km__kb_merge_added(km_kb *kb, const char *what, int64_t n, km_error *err);
/* Predictions, units, freezings and verdicts. `path` names the other file in messages. */
KM_NODISCARD km_status km__kb_merge_ledger(km_kb *kb, const char *path, km_error *err);

/* ---- tree.c ---- */

/* Number all nodes from their parents, siblings in the order of the numbers they have (all >= 0).
 * KM_EINVAL when they are not one tree of at most 100 levels. */
KM_NODISCARD km_status km__kb_number_tree(km_kb *kb, km_error *err);

/* ---- taxonomy_stage.c: inside a transaction ---- */

/* Check a taxonomy and put it into temp.in_nodes and so on. `user`: arrays may be missing, rows may
 * have the members a user's export has, and texts are checked as a user's. */
KM_NODISCARD km_status km__kb_stage_taxonomy(km_kb *kb, const json_t *root, bool user,
                                             km_error *err);
void km__kb_unstage_taxonomy(km_kb *kb);
/* List staged "nodes", "works", "edges" or "measures" that ours have with other content, in
 * temp.tax_report; `own`: of ours, only the user's. */
KM_NODISCARD km_status km__kb_list_differences(km_kb *kb, const char *what, bool own,
                                               km_error *err);
/* KM_EINVAL with the text a statement gives, if it gives one. */
KM_NODISCARD km_status km__kb_refuse_rows(km_kb *kb, const char *sql, km_error *err);
/* Works and nodes that staged edges and measures name must be ours by now. */
KM_NODISCARD km_status km__kb_check_ends(km_kb *kb, km_error *err);
/* Number, index for search, and keep the list in taxonomy_conflicts. source: "km" or "import". */
KM_NODISCARD km_status km__kb_finish_taxonomy(km_kb *kb, const char *source, km_error *err);

/* ---- search.c ---- */

/* Index what `searchable` has of one kind; `ref` NULL: all that is not indexed yet. */
KM_NODISCARD km_status km__kb_index(km_kb *kb, const char *kind, km_error *err);
/* Forget what was indexed of one kind. */
KM_NODISCARD km_status km__kb_unindex(km_kb *kb, const char *kind, km_error *err);

/* ---- query.c ---- */

/* All rows of a prepared reading statement as a table. */
KM_NODISCARD km_status km__kb_collect(km_table **out, km_kb *kb, sqlite3_stmt *stmt,
                                      int64_t max_rows, km_error *err);

/* ---- embedded files (tools/embed_sql.py) ---- */

typedef struct km__kb_question {
    const char *name;
    const char *title;
    const char *description;
    const char *parameters; /* "node=memorization other=" , separated by blanks; no '=': required */
    const char *sql;
} km__kb_question;
extern const km__kb_migration km__kb_migrations[];
extern const int km__kb_n_migrations;
extern const km__kb_question km__kb_questions[];
extern const int km__kb_n_questions;

#endif
