/* snapshot.c: copy a base that is in use.
 *
 * SQLite's backup interface copies pages under a read transaction of our own: writers go on, and
 * the copy is the state at its first page. It is written under another name beside its place,
 * synchronised and renamed, so that the place holds a whole file or what it held before. */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kb_private.h"

enum { PAGES_A_STEP = 512, WAIT_MS = 20 };

static km_status io_error(const char *path, const char *what, km_error *err) {
    return km_error_set_errno(err, errno, __FILE__, __func__, __LINE__, "%s: cannot %s", path,
                              what);
}

static bool same_file(const struct stat *a, const char *path) {
    struct stat b;
    return stat(path, &b) == 0 && a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

/* Replacing a database beside which a write-ahead log lies would damage it. */
static km_status check_target(const km_kb *kb, const char *path, bool overwrite, km_error *err) {
    struct stat info;
    char log[4200];
    if (stat(path, &info) != 0) {
        return errno == ENOENT ? KM_OK : io_error(path, "look at it", err);
    }
    if (!S_ISREG(info.st_mode) || same_file(&info, kb->path)) {
        return KM_SET(err, KM_EINVAL, "%s: a snapshot needs a file of its own", path);
    }
    if (!overwrite) {
        return KM_SET(err, KM_EINVAL, "%s: is there already: allow overwriting, or name another",
                      path);
    }
    int n = snprintf(log, sizeof log, "%s-wal", path);
    if (n >= (int)sizeof log || (stat(log, &info) == 0 && info.st_size > 0)) {
        return KM_SET(err, KM_ESTATE, "%s: is in use: %s-wal holds changes", path, path);
    }
    return KM_OK;
}

/* A new file beside `path`, owned by nobody else. */
static km_status make_temporary(char **out, km_kb *kb, const char *path, km_error *err) {
    void *memory = NULL;
    size_t n = strlen(path) + sizeof ".XXXXXX";
    KM_TRY(km_alloc(&memory, kb->ctx, n, err));
    char *name = memory;
    snprintf(name, n, "%s.XXXXXX", path);
    int fd = mkstemp(name);
    if (fd < 0) {
        km_status status = io_error(path, "make a file beside it", err);
        km_free(kb->ctx, name);
        return status;
    }
    mode_t mask = umask(0);
    (void)umask(mask);
    (void)fchmod(fd, 0666 & ~mask);
    (void)close(fd);
    *out = name;
    return KM_OK;
}

static km_status copy_pages(km_kb *kb, sqlite3 *to, km_tick *tick, km_error *err) {
    sqlite3_backup *backup = sqlite3_backup_init(to, "main", kb->db, "main");
    if (backup == NULL) {
        return KM_SET(err, KM_EIO, "%s: cannot begin the copy: %s", kb->path, sqlite3_errmsg(to));
    }
    km_status status = KM_OK;
    int rc = SQLITE_OK;
    while (status == KM_OK && rc != SQLITE_DONE) {
        rc = sqlite3_backup_step(backup, PAGES_A_STEP);
        if (rc == SQLITE_BUSY || rc == SQLITE_LOCKED) {
            (void)sqlite3_sleep(WAIT_MS);
        } else if (rc != SQLITE_OK && rc != SQLITE_DONE) {
            break;
        }
        int total = sqlite3_backup_pagecount(backup);
        tick->total = total;
        status = km_tick_update(tick, total - sqlite3_backup_remaining(backup), err);
    }
    (void)sqlite3_backup_finish(backup);
    if (status == KM_OK && rc != SQLITE_DONE) {
        status = km__kb_error(kb, rc, "copying", err);
    }
    return status;
}

static km_status copy_to(km_kb *kb, const char *name, km_tick *tick, km_error *err) {
    sqlite3 *to = NULL;
    km_status status = KM_OK;
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX;
    if (sqlite3_open_v2(name, &to, flags, NULL) != SQLITE_OK ||
        sqlite3_exec(to, "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF", NULL, NULL, NULL) !=
            SQLITE_OK) {
        KM_FAIL(err, KM_EIO, "%s: cannot open the copy: %s", name, sqlite3_errmsg(to));
    }
    KM_GO(copy_pages(kb, to, tick, err));
done:
    (void)sqlite3_close(to);
    return status;
}

static km_status sync_and_rename(const char *name, const char *path, km_error *err) {
    int fd = open(name, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fsync(fd) != 0) {
        km_status status = io_error(path, "synchronise it", err);
        if (fd >= 0) {
            (void)close(fd);
        }
        return status;
    }
    (void)close(fd);
    return rename(name, path) == 0 ? KM_OK : io_error(path, "put the copy there", err);
}

/* The snapshot is taken at the first read inside the transaction; backup steps keep to it. */
static km_status begin_reading(km_kb *kb, km_error *err) {
    int64_t version = 0;
    bool found = false;
    KM_TRY(km__kb_exec(kb, "BEGIN", err));
    return km__kb_scalar(&version, &found, kb, "PRAGMA user_version", NULL, NULL, err);
}

km_status km_kb_snapshot(km_kb *kb, const char *path, bool overwrite, km_tick_fn fn, void *payload,
                         km_error *err) {
    km_status status = KM_OK;
    km_tick tick;
    char *name = NULL;
    KM_TRY(km__kb_ready(kb, err));
    if (kb->depth > 0) {
        return KM_SET(err, KM_ESTATE, "%s: commit first: the copy would hold what may be undone",
                      kb->path);
    }
    KM_TRY(check_target(kb, path, overwrite, err));
    km_tick_init(&tick, kb->ctx, fn, payload, 0);
    KM_GO(begin_reading(kb, err));
    KM_GO(make_temporary(&name, kb, path, err));
    KM_GO(copy_to(kb, name, &tick, err));
    KM_GO(sync_and_rename(name, path, err));
done:
    if (status != KM_OK && name != NULL) {
        (void)unlink(name);
    }
    km_free(kb->ctx, name);
    (void)sqlite3_exec(kb->db, "ROLLBACK", NULL, NULL, NULL); /* only reading was begun */
    return status;
}
