/* open.c: open and close a knowledge base.
 *
 * What makes opening a stranger's file safe: defensive mode, untrusted schema, no triggers, no
 * extensions, no double-quoted strings, lowered limits, and the file's application_id and
 * user_version read before anything else. */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "base/ctx_private.h"
#include "kb_private.h"

enum { DEFAULT_BUSY_MS = 30000, RETRY_MS = 10 };

static const struct {
    uint32_t magic; /* statfs's f_type */
    km__kb_fs kind;
    const char *name;
} file_systems[] = {
    {0x6969, KM__KB_FS_NETWORK, "NFS"},        {0x517b, KM__KB_FS_NETWORK, "SMB"},
    {0xff534d42, KM__KB_FS_NETWORK, "CIFS"},   {0xfe534d42, KM__KB_FS_NETWORK, "SMB2"},
    {0x0bd00bd0, KM__KB_FS_NETWORK, "Lustre"}, {0x47504653, KM__KB_FS_NETWORK, "GPFS"},
    {0x5346414f, KM__KB_FS_NETWORK, "AFS"},    {0x00c36400, KM__KB_FS_NETWORK, "Ceph"},
    {0x19830326, KM__KB_FS_NETWORK, "BeeGFS"}, {0x01021997, KM__KB_FS_UNSURE, "9P"},
    {0x65735546, KM__KB_FS_UNSURE, "FUSE"},
};

km__kb_fs km__kb_filesystem(const char **name, uint32_t magic) {
    for (size_t i = 0; i < sizeof file_systems / sizeof file_systems[0]; i++) {
        if (file_systems[i].magic == magic) {
            *name = file_systems[i].name;
            return file_systems[i].kind;
        }
    }
    *name = "local";
    return KM__KB_FS_LOCAL;
}

/* The folder of a path as an owned string. */
static km_status folder_of(char **out, km_ctx *ctx, const char *path, km_error *err) {
    const char *slash = strrchr(path, '/');
    if (slash == NULL) {
        return km_strdup(out, ctx, ".", err);
    }
    return km_strndup(out, ctx, path, slash == path ? 1 : (size_t)(slash - path), err);
}

static km_status check_file_system(km_kb *kb, const char *folder, bool allow, km_error *err) {
    struct statfs info;
    if (statfs(folder, &info) != 0) {
        if (errno == ENOENT || errno == ENOTDIR) {
            return KM_SET(err, KM_ENOTFOUND, "%s: there is no folder %s", kb->path, folder);
        }
        return km_error_set_errno(err, errno, __FILE__, __func__, __LINE__, "%s", kb->path);
    }
    const char *name = NULL;
    km__kb_fs kind = km__kb_filesystem(&name, (uint32_t)info.f_type);
    if (kind == KM__KB_FS_NETWORK && !allow) {
        return KM_SET(
            err, KM_EUNSUPPORTED,
            "%s: on a network file system (%s), where SQLite's locks cannot be relied on; "
            "keep the knowledge base on a local disk, or allow it knowingly",
            kb->path, name);
    }
    if (kind != KM__KB_FS_LOCAL) {
        snprintf(kb->warning, sizeof kb->warning,
                 "on a file system (%s) whose locks may not hold between machines: let one machine "
                 "write at a time",
                 name);
    }
    return KM_OK;
}

static void restrict_connection(sqlite3 *db, int busy_ms) {
    static const struct {
        int option, value;
    } switches[] = {
        {SQLITE_DBCONFIG_DEFENSIVE, 1},      {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0},
        {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0}, {SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 0},
        {SQLITE_DBCONFIG_DQS_DML, 0},        {SQLITE_DBCONFIG_DQS_DDL, 0},
        {SQLITE_DBCONFIG_ENABLE_FKEY, 1},
    };
    static const struct {
        int limit, value;
    } limits[] = {
        {SQLITE_LIMIT_LENGTH, 256 * 1024 * 1024}, {SQLITE_LIMIT_SQL_LENGTH, 1024 * 1024},
        {SQLITE_LIMIT_EXPR_DEPTH, 200},           {SQLITE_LIMIT_ATTACHED, 0},
        {SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 1000}, {SQLITE_LIMIT_TRIGGER_DEPTH, 4},
    };
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
        (void)sqlite3_db_config(db, switches[i].option, switches[i].value, NULL);
    }
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        (void)sqlite3_limit(db, limits[i].limit, limits[i].value);
    }
    (void)sqlite3_extended_result_codes(db, 1);
    (void)sqlite3_busy_timeout(db, busy_ms);
}

static km_status open_connection(km_kb *kb, const char *name, int flags, int busy_ms,
                                 km_error *err) {
    int rc = sqlite3_open_v2(name, &kb->db, flags | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK) {
        km_status status = km__kb_error(kb, rc, "opening", err);
        (void)sqlite3_close(kb->db);
        kb->db = NULL;
        return status;
    }
    restrict_connection(kb->db, busy_ms);
    return KM_OK;
}

/* file:<percent-encoded absolute or relative path>?immutable=1 */
static km_status immutable_name(char **out, km_ctx *ctx, const char *path, km_error *err) {
    static const char hex[] = "0123456789ABCDEF";
    static const char prefix[] = "file:", suffix[] = "?immutable=1";
    void *memory = NULL;
    size_t n = strlen(path);
    KM_TRY(km_alloc(&memory, ctx, 3 * n + sizeof prefix + sizeof suffix, err));
    char *end = memory;
    memcpy(end, prefix, sizeof prefix - 1);
    end += sizeof prefix - 1;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)path[i];
        bool plain = c == '/' || c == '.' || c == '-' || c == '_' || (c >= '0' && c <= '9') ||
                     (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (plain) {
            *end++ = (char)c;
        } else {
            *end++ = '%';
            *end++ = hex[c >> 4];
            *end++ = hex[c & 15];
        }
    }
    memcpy(end, suffix, sizeof suffix);
    *out = memory;
    return KM_OK;
}

/* True when path + suffix exists and holds something. */
static bool has_companion(const char *path, const char *suffix) {
    char name[4200];
    struct stat info;
    int n = snprintf(name, sizeof name, "%s%s", path, suffix);
    return n > 0 && (size_t)n < sizeof name && stat(name, &info) == 0 && info.st_size > 0;
}

/* A reader of a WAL database writes a -shm file beside it. Where the folder forbids that, the file
 * can be read as immutable, which is right only while no -wal holds newer pages. */
static km_status open_read_only(km_kb *kb, const char *folder, int busy_ms, km_error *err) {
    km_status status = KM_OK;
    char *name = NULL;
    struct stat info;
    if (stat(kb->path, &info) != 0) {
        return errno == ENOENT
                   ? KM_SET(err, KM_ENOTFOUND, "%s: there is no such file", kb->path)
                   : km_error_set_errno(err, errno, __FILE__, __func__, __LINE__, "%s", kb->path);
    }
    if (access(folder, W_OK) == 0 || has_companion(kb->path, "-shm")) {
        return open_connection(kb, kb->path, SQLITE_OPEN_READONLY, busy_ms, err);
    }
    if (has_companion(kb->path, "-wal")) {
        KM_FAIL(
            err, KM_EUNSUPPORTED,
            "%s: its -wal file holds changes, and the folder cannot be written: copy both files "
            "to a folder of your own and open them there",
            kb->path);
    }
    KM_GO(immutable_name(&name, kb->ctx, kb->path, err));
    KM_GO(open_connection(kb, name, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI, busy_ms, err));
done:
    km_free(kb->ctx, name);
    return status;
}

/* SQLite does not always wait by itself while another process turns WAL on or recovers it. */
static km_status pragma_with_patience(km_kb *kb, const char *sql, int busy_ms, km_error *err) {
    const struct timespec pause = {0, RETRY_MS * 1000000L};
    for (int waited = 0;; waited += RETRY_MS) {
        int rc = sqlite3_exec(kb->db, sql, NULL, NULL, NULL);
        if (rc == SQLITE_OK) {
            return KM_OK;
        }
        if ((rc & 0xff) != SQLITE_BUSY || waited >= busy_ms) {
            return km__kb_error(kb, rc, "opening", err);
        }
        (void)nanosleep(&pause, NULL);
    }
}

typedef struct header {
    int64_t application, version, n_objects;
} header;

/* One snapshot of all three: another process may be making the schema at this moment. */
static km_status read_header(header *out, km_kb *kb, km_error *err) {
    bool found = false;
    KM_TRY(km__kb_exec(kb, "BEGIN", err));
    km_status status =
        km__kb_scalar(&out->application, &found, kb, "PRAGMA application_id", NULL, NULL, err);
    if (status == KM_OK) {
        status = km__kb_scalar(&out->version, &found, kb, "PRAGMA user_version", NULL, NULL, err);
    }
    if (status == KM_OK) {
        status = km__kb_scalar(&out->n_objects, &found, kb, "SELECT count(*) FROM sqlite_schema",
                               NULL, NULL, err);
    }
    (void)sqlite3_exec(kb->db, "ROLLBACK", NULL, NULL, NULL); /* nothing was written */
    return status;
}

/* KM_OK for our own file of a version we know, or an empty one. */
static km_status check_header(int64_t *version, km_kb *kb, km_error *err) {
    header h = {0, 0, 0};
    KM_TRY(read_header(&h, kb, err));
    *version = h.version;
    bool empty = h.application == 0 && h.version == 0 && h.n_objects == 0;
    if (!empty && h.application != KM_KB_APPLICATION_ID) {
        return KM_SET(err, KM_EFORMAT,
                      "%s: an SQLite database of another program, not a km knowledge base",
                      kb->path);
    }
    if (h.version > KM_KB_SCHEMA_VERSION) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "%s: schema version %lld, newer than this km's %d: update km", kb->path,
                      (long long)h.version, KM_KB_SCHEMA_VERSION);
    }
    if (h.version < 1 && (!empty || kb->read_only)) {
        return KM_SET(err, KM_EFORMAT, "%s: not a km knowledge base (schema version %lld)",
                      kb->path, (long long)h.version);
    }
    if (h.version < KM_KB_SCHEMA_VERSION && kb->read_only) {
        return KM_SET(
            err, KM_EUNSUPPORTED,
            "%s: schema version %lld is older than this km's %d: open it once for writing, or run "
            "`km kb upgrade`",
            kb->path, (long long)h.version, KM_KB_SCHEMA_VERSION);
    }
    return KM_OK;
}

static km_status prepare_file(km_kb *kb, int busy_ms, km_error *err) {
    int64_t version = 0;
    KM_TRY(
        pragma_with_patience(kb, "PRAGMA cell_size_check = ON; PRAGMA user_version", busy_ms, err));
    KM_TRY(check_header(&version, kb, err));
    if (kb->read_only) {
        return km__kb_exec(kb, "PRAGMA query_only = ON", err);
    }
    KM_TRY(pragma_with_patience(kb, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL",
                                busy_ms, err));
    if (version < KM_KB_SCHEMA_VERSION) {
        KM_TRY(km__kb_migrate(kb, km__kb_migrations, km__kb_n_migrations, err));
    }
    return KM_OK;
}

static km_status open_file(km_kb *kb, const km_kb_options *options, int busy_ms, km_error *err) {
    km_status status = KM_OK;
    char *folder = NULL;
    if (strcmp(kb->path, ":memory:") == 0) {
        return open_connection(kb, kb->path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, busy_ms,
                               err);
    }
    KM_GO(folder_of(&folder, kb->ctx, kb->path, err));
    KM_GO(check_file_system(kb, folder, options->allow_network, err));
    if (kb->read_only) {
        KM_GO(open_read_only(kb, folder, busy_ms, err));
    } else {
        KM_GO(open_connection(kb, kb->path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, busy_ms,
                              err));
    }
done:
    km_free(kb->ctx, folder);
    return status;
}

/* SQLite may be built to read names that begin "file:" as URIs; ours are always paths. */
static km_status copy_path(char **out, km_ctx *ctx, const char *path, km_error *err) {
    if (strncmp(path, "file:", 5) != 0) {
        return km_strdup(out, ctx, path, err);
    }
    void *memory = NULL;
    size_t n = strlen(path) + 1;
    KM_TRY(km_alloc(&memory, ctx, n + 2, err));
    memcpy(memory, "./", 2);
    memcpy((char *)memory + 2, path, n);
    *out = memory;
    return KM_OK;
}

km_status km_kb_open(km_kb **out, km_ctx *ctx, const char *path, const km_kb_options *options,
                     km_error *err) {
    km_status status = KM_OK;
    const km_kb_options defaults = KM_KB_OPTIONS_INIT;
    km_kb *kb = NULL;
    void *memory = NULL;
    *out = NULL;
    if (path == NULL || path[0] == '\0') {
        return KM_SET(err, KM_EINVAL, "the path of a knowledge base is empty");
    }
    options = options == NULL ? &defaults : options;
    int busy_ms = options->busy_timeout_ms > 0 ? options->busy_timeout_ms : DEFAULT_BUSY_MS;
    KM_TRY(km_alloc_array(&memory, ctx, 1, sizeof *kb, err));
    kb = memory;
    kb->ctx = km__ctx_ref(ctx);
    kb->pid = getpid();
    kb->read_only = options->read_only;
    KM_GO(copy_path(&kb->path, ctx, path, err));
    KM_GO(open_file(kb, options, busy_ms, err));
    KM_GO(prepare_file(kb, busy_ms, err));
    *out = kb;
    kb = NULL;
done:
    km_kb_close(kb);
    return status;
}

/* In a forked child the connection is left alone: closing it there could end the parent's locks. */
void km_kb_close(km_kb *kb) {
    if (kb == NULL) {
        return;
    }
    if (kb->db != NULL && kb->pid == getpid()) {
        (void)sqlite3_close_v2(kb->db);
    }
    km_ctx *ctx = kb->ctx;
    km_free(ctx, kb->path);
    km_free(ctx, kb);
    km_ctx_free(ctx);
}

const char *km_kb_path(const km_kb *kb) {
    return kb->path;
}

const char *km_kb_warning(const km_kb *kb) {
    return kb->warning;
}

bool km_kb_read_only(const km_kb *kb) {
    return kb->read_only;
}
