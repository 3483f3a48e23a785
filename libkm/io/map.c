/* map.c: files as read-only memory maps.
 *
 * A file that another process cuts short while it is mapped makes reads beyond its new end fail
 * with SIGBUS; km_map_check, called before each pass over the data, turns the common case into an
 * error. */
#include "io/io.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const unsigned char EMPTY[1];

static km_status open_error(const char *path, int number, km_error *err) {
    if (number == ENOENT || number == ENOTDIR) {
        km_status status = KM_SET(err, KM_ENOTFOUND, "%s: no such file", path);
        if (err != NULL) {
            err->os_errno = number;
        }
        return status;
    }
    return km_error_set_errno(err, number, __FILE__, __func__, __LINE__, "%s: cannot open", path);
}

static km_status check_regular(const struct stat *info, const char *path, km_error *err) {
    if (S_ISDIR(info->st_mode)) {
        return KM_SET(err, KM_EINVAL, "%s: is a folder, not a file", path);
    }
    if (!S_ISREG(info->st_mode)) {
        return KM_SET(err, KM_EINVAL, "%s: is not a regular file", path);
    }
    if (info->st_size < 0 || (uintmax_t)info->st_size > SIZE_MAX / 2) {
        return KM_SET(err, KM_EUNSUPPORTED, "%s: too large to map", path);
    }
    return KM_OK;
}

km_status km_map_open(km_map *out, const char *path, km_error *err) {
    *out = (km_map){EMPTY, 0, -1};
    /* O_NONBLOCK: opening a FIFO must not wait for a writer; it is refused just below. */
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) {
        return open_error(path, errno, err);
    }
    km_status status = KM_OK;
    struct stat info;
    if (fstat(fd, &info) != 0) {
        status = open_error(path, errno, err);
        goto done;
    }
    KM_GO(check_regular(&info, path, err));
    if (info.st_size > 0) {
        void *data = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED) {
            status = km_error_set_errno(err, errno, __FILE__, __func__, __LINE__,
                                        "%s: cannot map %lld bytes", path, (long long)info.st_size);
            goto done;
        }
        out->data = data;
        out->size = (size_t)info.st_size;
    }
    out->fd = fd;
    fd = -1;
done:
    if (fd >= 0) {
        (void)close(fd);
    }
    return status;
}

km_status km_map_check(const km_map *map, km_error *err) {
    struct stat info;
    if (map->fd < 0) {
        return KM_OK;
    }
    if (fstat(map->fd, &info) != 0) {
        return km_error_set_errno(err, errno, __FILE__, __func__, __LINE__, "cannot stat");
    }
    if ((uintmax_t)info.st_size < map->size) {
        return KM_SET(err, KM_EFORMAT,
                      "the file shrank from %zu to %lld bytes since it was opened; open it again",
                      map->size, (long long)info.st_size);
    }
    return KM_OK;
}

void km_map_close(km_map *map) {
    if (map->size > 0) {
        (void)munmap((void *)(uintptr_t)map->data, map->size);
    }
    if (map->fd >= 0) {
        (void)close(map->fd);
    }
    *map = (km_map){EMPTY, 0, -1};
}
