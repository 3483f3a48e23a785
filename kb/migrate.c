/* migrate.c: bring a file to the newest schema. Migrations are numbered files under schema/; the
 * file's PRAGMA user_version is the number of the last one applied. */

#include <stdio.h>

#include "kb_private.h"

static km_status set_header(km_kb *kb, int version, km_error *err) {
    char sql[96];
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d; PRAGMA user_version = %d",
             KM_KB_APPLICATION_ID, version);
    return km__kb_exec(kb, sql, err);
}

static km_status note_creation(km_kb *kb, km_error *err) {
    return km__kb_exec(kb,
                       "INSERT OR IGNORE INTO meta (key, value) VALUES"
                       " ('created', strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),"
                       " ('created_by', 'km " KM_VERSION "')",
                       err);
}

/* The version is read inside the transaction: another process may have migrated meanwhile. */
km_status km__kb_migrate(km_kb *kb, const km__kb_migration *migrations, int n, km_error *err) {
    km_status status = KM_OK;
    int64_t version = 0;
    bool found = false;
    KM_TRY(km_kb_begin(kb, err));
    KM_GO(km__kb_scalar(&version, &found, kb, "PRAGMA user_version", NULL, NULL, err));
    for (int i = 0; i < n; i++) {
        if (migrations[i].version <= version) {
            continue;
        }
        KM_GO(km__kb_exec(kb, migrations[i].sql, err));
        KM_GO(set_header(kb, migrations[i].version, err));
        if (version == 0) {
            KM_GO(note_creation(kb, err));
        }
    }
done:
    if (status != KM_OK) {
        km_error_prefix(err, "making the schema");
    }
    return km__kb_end(kb, status, err);
}
