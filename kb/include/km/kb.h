/* km/kb.h: the knowledge base: one SQLite file with the taxonomy of knowledge mechanisms, works,
 * models, facts, runs, measurements and the evidence that follows from them.
 *
 * Records enter as JSON objects whose members are the columns of the table they belong to (see
 * docs/knowledge-base.md); an unknown member, a missing one or a wrong type is KM_EINVAL and names
 * it. Tables of measurements enter and leave as km_table, unchanged.
 *
 * Guarantees: every call that writes is one transaction; when it returns KM_OK, a killed process
 * loses nothing of it (a power cut may cost the last transactions, never the file). On any error
 * the file is as it was before the call. Several processes may write to one file; they wait for
 * each other up to the busy timeout (KM_ESTATE after it).
 *
 * Threads: one thread at a time per km_kb. A km_kb opened before fork() refuses work in the child
 * (KM_ESTATE). Errors common to all calls: KM_ENOMEM, KM_EIO (with ENOSPC for a full disk),
 * KM_EFORMAT (damaged file), KM_ESTATE (locked by another process), and for calls that write,
 * KM_EIO with EROFS on a read-only base.
 */
#ifndef KM_KB_H
#define KM_KB_H

#include "km/table.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct km_kb km_kb;

typedef struct km_kb_options {
    bool read_only;      /* never writes; the file must exist */
    bool allow_network;  /* open on a network file system all the same: locks may not hold there */
    int busy_timeout_ms; /* how long to wait for another writer; 0: default, 30,000 */
} km_kb_options;
#define KM_KB_OPTIONS_INIT {false, false, 0}

/* Open a knowledge base, making it (with the schema, without a taxonomy) where there is none;
 * ":memory:" is a temporary one. Older schemas are migrated unless read_only. A read-only base in a
 * folder that cannot be written is opened as immutable when no -wal file stands beside it.
 * Errors: KM_ENOTFOUND (read_only and no file, or no folder), KM_EFORMAT (not a database, damaged,
 * or another program's), KM_EUNSUPPORTED (newer schema; older schema opened read-only; network file
 * system without allow_network). */
KM_API KM_NODISCARD km_status km_kb_open(km_kb **out, km_ctx *ctx, const char *path,
                                         const km_kb_options *options, km_error *err);
/* Close; a transaction that was not committed is rolled back. */
KM_API void km_kb_close(km_kb *kb);

/* The path as given. Borrowed. */
KM_API const char *km_kb_path(const km_kb *kb);
/* What may go wrong on this file system, or "". Borrowed. */
KM_API const char *km_kb_warning(const km_kb *kb);
/* Whether writing is refused, as asked for when opening. */
KM_API bool km_kb_read_only(const km_kb *kb);

/* ---- transactions: group calls so that all of them happen or none; may be nested ---- */

/* Begin; the outermost one takes the write lock. KM_ESTATE when another process keeps it. */
KM_API KM_NODISCARD km_status km_kb_begin(km_kb *kb, km_error *err);
/* KM_ESTATE without km_kb_begin. A failed commit is rolled back. */
KM_API KM_NODISCARD km_status km_kb_commit(km_kb *kb, km_error *err);
/* Undo what was written since the matching km_kb_begin. No-op without one. */
KM_API void km_kb_rollback(km_kb *kb);

/* ---- records ---- */

/* Load or renew the taxonomy from n bytes of JSON (kb/taxonomy/taxonomy.json and its like). Nodes,
 * works and measures that recorded evidence points to must still be there (else KM_EINVAL). What
 * the user added or moved stays; where the new taxonomy says something else about it, a row of
 * `taxonomy_conflicts` with source "km" says so. Loading the same bytes again does nothing. Errors:
 * KM_EFORMAT, KM_EINVAL with what is wrong where. */
KM_API KM_NODISCARD km_status km_kb_load_taxonomy(km_kb *kb, const char *json, size_t n,
                                                  km_error *err);
/* Add to the taxonomy as its user, or move nodes in it. JSON object, every member optional: nodes,
 * works, edges, measurements (arrays as in taxonomy.json; a node may have shipped_parent: where km
 * has it while `parent` is where it was moved to) and moves (array of objects id, parent). New rows
 * are the user's own, and a later km_kb_load_taxonomy leaves them. *out lists what happened as rows
 * (what, outcome, n, key, ours, theirs): outcome "added" with how many, "moved" (ours: the new
 * parent, theirs: the one before), "differs" for a key that is there with other content, which
 * stays; such rows go to `taxonomy_conflicts` with source "import" too. The same again changes
 * nothing. KM_EINVAL for what is malformed, points nowhere, or would put a node below itself;
 * KM_ENOTFOUND for a move of or to a node that is not there; nothing is changed then. */
KM_API KM_NODISCARD km_status km_kb_edit_taxonomy(km_table **out, km_kb *kb, const char *json,
                                                  size_t n, km_error *err);

/* The id of a model, recorded when its fingerprint is new. JSON object: fingerprint, name;
 * optional architecture, precision, path, tokenizer_hash, n_parameters, config (object). */
KM_API KM_NODISCARD km_status km_kb_put_model(int64_t *out, km_kb *kb, const char *json, size_t n,
                                              km_error *err);
/* JSON array of objects id, relation, subject, answers (array); optional source, licence. A fact
 * whose id is there already is left as it is; *out counts the new ones (NULL allowed). */
KM_API KM_NODISCARD km_status km_kb_put_facts(int64_t *out, km_kb *kb, const char *json, size_t n,
                                              km_error *err);
/* JSON array of objects id, body; optional title, source, licence. As km_kb_put_facts. */
KM_API KM_NODISCARD km_status km_kb_put_texts(int64_t *out, km_kb *kb, const char *json, size_t n,
                                              km_error *err);
/* Which model came from which: JSON array of objects child, parent (fingerprints of models recorded
 * before), kind ("trained", "edited", "pruned", "merged", "quantised" or "snapshot"); optional run,
 * step, recipe (object). A merged model has an object for each parent. A child, parent and kind
 * that are there already stay as they are; *out counts the new ones (NULL allowed). KM_ENOTFOUND
 * for a model or run that is not recorded, KM_EINVAL when the child is its parent or comes before
 * it. */
KM_API KM_NODISCARD km_status km_kb_put_lineage(int64_t *out, km_kb *kb, const char *json, size_t n,
                                                km_error *err);
/* Declare a measure of the user's own: JSON object id, module, nodes (array of node ids); optional
 * title. Evidence can be recorded for these nodes alone. KM_EINVAL for an unknown node. */
KM_API KM_NODISCARD km_status km_kb_put_measure(km_kb *kb, const char *json, size_t n,
                                                km_error *err);

/* Start a run; its id in *out. JSON object: measure, version, parameters (object); optional model
 * (id of km_kb_put_model), seed, key, started, km_version, cpu, blas_core, command, note. */
KM_API KM_NODISCARD km_status km_kb_begin_run(int64_t *out, km_kb *kb, const char *json, size_t n,
                                              km_error *err);
/* End a run as "done", "cancelled" or "failed". KM_ENOTFOUND without such a run, KM_ESTATE when it
 * has ended already. `key` (NULL allowed) is the content key of its result; KM_EINVAL when another
 * run has it. A run that ended "done" without a key may be given one. */
KM_API KM_NODISCARD km_status km_kb_finish_run(km_kb *kb, int64_t run, const char *outcome,
                                               const char *key, km_error *err);
/* The run whose result has this content key, or -1. */
KM_API KM_NODISCARD km_status km_kb_find_run(int64_t *out, km_kb *kb, const char *key,
                                             km_error *err);
/* What a run says about nodes: JSON array of objects node, measure, statistic; optional value, low,
 * high, n, unit, baseline (number or text), note. Evidence that is there already for the same run,
 * node, measure and statistic stays. KM_EINVAL when the measure is not declared to bear on the
 * node. */
KM_API KM_NODISCARD km_status km_kb_put_evidence(km_kb *kb, int64_t run, const char *json, size_t n,
                                                 km_error *err);

/* ---- the ledger: predictions frozen before a run, and verdicts after it ---- */

/* Fix predictions for a unit (docs/ledger.md). JSON object: model (the unit's name for it), unit
 * and predictions (an array), each the text of a JSON object, of which exactly these bytes are
 * digested (SHA-256) and kept; optional basis "before" (default) or "release". *out counts the new
 * freezings (NULL allowed); those that are there keep their time. A prediction has the members that
 * the table `predictions` names, nodes, rivals and controls (arrays of texts). A unit has
 * fingerprint, precision, prompts, facts (texts) and recipe (object). KM_EINVAL when the id and
 * version were frozen with another text, when a node is not one its measure is declared to bear on,
 * or lies under hyp-modular-region or hyp-connection without kind "intervention" and controls. */
KM_API KM_NODISCARD km_status km_kb_freeze(int64_t *out, km_kb *kb, const char *json, size_t n,
                                           km_error *err);
/* Add what a run says of a frozen prediction; its id in *out. JSON object: prediction and unit
 * (digests), word, n, rows; optional basis, estimate, low, high, p_value, command. Verdicts are
 * added and never replaced: the same one again gives its id, another for the same run is KM_EINVAL.
 * KM_ENOTFOUND when nothing was frozen for this unit or there is no such run; KM_EINVAL when the
 * run cannot count: of another measure or model, cancelled or failed, with a column of `controls`
 * that no row of it fills, or (basis "before") begun, or resting on rows measured, before the
 * freezing. */
KM_API KM_NODISCARD km_status km_kb_put_verdict(int64_t *out, km_kb *kb, int64_t run,
                                                const char *json, size_t n, km_error *err);

/* ---- measurements ---- */

typedef enum km_kb_stored {
    KM_KB_STORED = 0, /* new */
    KM_KB_SAME,       /* was there with the same values */
    KM_KB_DIFFERS /* was there with other values: those stay, and a row of `conflicts` says so */
} km_kb_stored;

/* Store a table under its content key (1 to 200 bytes, normally 64 hexadecimal digits) as part of a
 * run. One transaction, whatever the number of rows. */
KM_API KM_NODISCARD km_status km_kb_store_chunk(km_kb_stored *out, km_kb *kb, int64_t run,
                                                const char *key, const km_table *table,
                                                km_error *err);
/* The table stored under a key: same columns, units, descriptions, values and nulls. *out is NULL
 * and the status KM_OK when there is none. KM_EFORMAT when the rows no longer match the digest
 * stored with them. */
KM_API KM_NODISCARD km_status km_kb_load_chunk(km_table **out, km_kb *kb, const char *key,
                                               km_error *err);
/* Note that a run used a chunk it found. KM_ENOTFOUND without such a chunk or run. */
KM_API KM_NODISCARD km_status km_kb_use_chunk(km_kb *kb, int64_t run, const char *key,
                                              km_error *err);

/* ---- questions ---- */

/* Run one reading SQL statement. Parameters are a JSON array (for ?) or object (for :name), or
 * NULL. Anything that would write, attach or change a setting is KM_EINVAL; a statement that runs
 * longer than timeout_ms (0: 60,000) or that km_ctx_cancel stops is KM_ECANCELLED; more than
 * max_rows rows (0: 1,000,000) is KM_ERANGE. A column is integer, real or text by its values; blobs
 * come as hexadecimal text. */
KM_API KM_NODISCARD km_status km_kb_query(km_table **out, km_kb *kb, const char *sql,
                                          const char *params_json, int timeout_ms, int64_t max_rows,
                                          km_error *err);
/* Answer a named question. Parameters are a JSON object of its parameters or NULL for their
 * defaults. KM_ENOTFOUND for an unknown name (the message lists near ones), KM_EINVAL for an
 * unknown or missing parameter. */
KM_API KM_NODISCARD km_status km_kb_ask(km_table **out, km_kb *kb, const char *name,
                                        const char *params_json, km_error *err);
/* The named questions: name, title, description, parameters ("node=memorization"), sql. */
KM_API KM_NODISCARD km_status km_kb_questions(km_table **out, km_ctx *ctx, km_error *err);

/* Full-text search over nodes, works, facts and texts: every word must occur (English words match
 * by stem); Chinese, Japanese and Korean are matched by pairs of characters. Rows: kind, ref,
 * title, excerpt, score (higher is nearer), best first, at most `limit` (0: 50). */
KM_API KM_NODISCARD km_status km_kb_search(km_table **out, km_kb *kb, const char *text,
                                           const char *kind, int64_t limit, km_error *err);

/* Facts about the file as rows (name, value): path, schema version, taxonomy, counts of rows. */
KM_API KM_NODISCARD km_status km_kb_info(km_table **out, km_kb *kb, km_error *err);
/* Check the file: SQLite's quick_check (or integrity_check when `full`), foreign keys, models that
 * come from themselves, and with `full` the digest of every chunk. One row (what, problem) for each
 * problem; none when sound. */
KM_API KM_NODISCARD km_status km_kb_check(km_table **out, km_kb *kb, bool full, km_error *err);

/* ---- whole files ---- */

/* Bring in what another base of the same schema version holds: taxonomy, models, facts, texts,
 * runs, chunks, evidence, lineage and ledger, by their natural keys (fingerprints, ids, content
 * keys, digests). One transaction; the other file is only read. *out lists what happened as rows
 * (what, outcome, n, key, ours, theirs): outcome "added" with how many, "went on" for runs that
 * were still running here, "earlier" for freezings that the other file has from before, "differs"
 * for one key with other values (ours stay; chunks are noted in `conflicts` too), "refused" for
 * what the rules here do not accept. Merging again adds nothing. `fn` (NULL allowed) is told of the
 * chunks read. Errors: KM_ENOTFOUND without such a file, KM_EFORMAT when it is damaged or not what
 * km writes, KM_EUNSUPPORTED for another schema version, KM_ECANCELLED; after each of them this
 * base is as it was. */
KM_API KM_NODISCARD km_status km_kb_merge(km_table **out, km_kb *kb, const char *path,
                                          km_tick_fn fn, void *payload, km_error *err);
/* Copy the base to a file of its own while it is used, also by other processes. The copy is the
 * state at one moment; `path` holds the whole copy or what it held before. `fn` (NULL allowed) is
 * told of the pages copied. Errors: KM_EINVAL when `path` is the base, no plain file, or there
 * without `overwrite`; KM_ESTATE inside a transaction, or when `path` is a database in use; KM_EIO,
 * KM_ECANCELLED. */
KM_API KM_NODISCARD km_status km_kb_snapshot(km_kb *kb, const char *path, bool overwrite,
                                             km_tick_fn fn, void *payload, km_error *err);

/* Schema version this library writes. */
#define KM_KB_SCHEMA_VERSION 5

#ifdef __cplusplus
}
#endif

#endif
