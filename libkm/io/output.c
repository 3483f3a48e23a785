/* output.c: a file that appears under its name only when all of it is on the disk.
 *
 * Written beside the target under a name of its own, so that rename stays inside one file system.
 * The folder is synchronised too: after a power cut there is the old file or the new one. */
#include "io/write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BUFFER_BYTES ((size_t)1 << 20)
#define ATTEMPTS 100

struct km_output {
    km_ctx *ctx;
    char *path, *temporary;
    unsigned char *buffer; /* (BUFFER_BYTES) */
    size_t n;
    uint64_t size;
    int fd;
};

static km_status io_error(const km_output *output, const char *what, km_error *err) {
    return km_error_set_errno(err, errno, __FILE__, __func__, __LINE__, "%s: cannot %s",
                              output->path, what);
}

/* "<path>.<process>-<attempt>.part" */
static km_status open_temporary(km_output *output, km_error *err) {
    size_t room = strlen(output->path) + 48;
    KM_TRY(km_alloc((void **)&output->temporary, output->ctx, room, err));
    for (int i = 0; i < ATTEMPTS && output->fd < 0; i++) {
        (void)snprintf(output->temporary, room, "%s.%ld-%d.part", output->path, (long)getpid(), i);
        output->fd = open(output->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (output->fd < 0 && errno != EEXIST) {
            break;
        }
    }
    return output->fd >= 0 ? KM_OK : io_error(output, "write beside it", err);
}

km_status km_output_open(km_output **out, km_ctx *ctx, const char *path, km_error *err) {
    km_output *output = NULL;
    struct stat info;
    km_status status = KM_OK;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) {
        return KM_SET(err, KM_EINVAL, "%s: is there and is no regular file", path);
    }
    KM_GO(km_alloc_array((void **)&output, ctx, 1, sizeof *output, err));
    output->ctx = ctx;
    output->fd = -1;
    KM_GO(km_strdup(&output->path, ctx, path, err));
    KM_GO(km_alloc((void **)&output->buffer, ctx, BUFFER_BYTES, err));
    KM_GO(open_temporary(output, err));
    *out = output;
    output = NULL;
done:
    km_output_abort(output);
    return status;
}

km_status km_output_open_memory(km_output **out, km_ctx *ctx, km_error *err) {
    km_output *output = NULL;
    km_status status = KM_OK;
    KM_GO(km_alloc_array((void **)&output, ctx, 1, sizeof *output, err));
    output->ctx = ctx;
    output->fd = -1;
    KM_GO(km_strdup(&output->path, ctx, "a file in memory", err));
    KM_GO(km_alloc((void **)&output->buffer, ctx, BUFFER_BYTES, err));
    output->fd = memfd_create("km", MFD_CLOEXEC);
    if (output->fd < 0) {
        status = io_error(output, "make it", err);
        goto done;
    }
    *out = output;
    output = NULL;
done:
    km_output_abort(output);
    return status;
}

static km_status write_all(km_output *output, const unsigned char *data, size_t n, km_error *err) {
    while (n > 0) {
        ssize_t written = write(output->fd, data, n);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            errno = written == 0 ? ENOSPC : errno;
            return io_error(output, "write", err);
        }
        data += written;
        n -= (size_t)written;
    }
    return KM_OK;
}

km_status km_output_write(km_output *output, const void *data, size_t n, km_error *err) {
    output->size += n;
    if (n > BUFFER_BYTES - output->n) {
        KM_TRY(write_all(output, output->buffer, output->n, err));
        output->n = 0;
    }
    if (n > BUFFER_BYTES) {
        return write_all(output, data, n, err);
    }
    if (n > 0) {
        memcpy(output->buffer + output->n, data, n);
        output->n += n;
    }
    return KM_OK;
}

km_status km_output_pad(km_output *output, size_t alignment, km_error *err) {
    static const unsigned char zeros[256];
    size_t left = (size_t)((alignment - output->size % alignment) % alignment);
    while (left > 0) {
        size_t n = left < sizeof zeros ? left : sizeof zeros;
        KM_TRY(km_output_write(output, zeros, n, err));
        left -= n;
    }
    return KM_OK;
}

static km_status sync_folder(const km_output *output, km_error *err) {
    char *slash = strrchr(output->temporary, '/');
    if (slash != NULL) {
        slash[slash == output->temporary ? 1 : 0] = '\0';
    }
    int fd = open(slash != NULL ? output->temporary : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Some file systems cannot synchronise a folder; the file itself is safe all the same. */
    bool failed = fd < 0 || (fsync(fd) != 0 && errno != EINVAL && errno != EROFS);
    km_status status = failed ? io_error(output, "synchronise its folder", err) : KM_OK;
    if (fd >= 0) {
        (void)close(fd);
    }
    return status;
}

km_status km_output_commit(km_output *output, km_error *err) {
    km_status status = KM_OK;
    bool renamed = false;
    KM_GO(write_all(output, output->buffer, output->n, err));
    if (fsync(output->fd) != 0) {
        status = io_error(output, "synchronise", err);
        goto done;
    }
    int fd = output->fd;
    output->fd = -1;
    if (close(fd) != 0) {
        status = io_error(output, "close", err);
        goto done;
    }
    if (rename(output->temporary, output->path) != 0) {
        status = io_error(output, "put the written file there", err);
        goto done;
    }
    renamed = true;
    KM_GO(sync_folder(output, err));
done:
    if (renamed) {
        km_free(output->ctx, output->temporary);
        output->temporary = NULL;
    }
    km_output_abort(output);
    return status;
}

km_status km_output_map(km_map *out, km_output *output, km_error *err) {
    km_status status = KM_OK;
    KM_GO(write_all(output, output->buffer, output->n, err));
    void *data = mmap(NULL, (size_t)output->size, PROT_READ, MAP_PRIVATE, output->fd, 0);
    if (data == MAP_FAILED) {
        status = io_error(output, "map it", err);
        goto done;
    }
    *out = (km_map){data, (size_t)output->size, output->fd};
    output->fd = -1;
done:
    km_output_abort(output);
    return status;
}

void km_output_abort(km_output *output) {
    if (output == NULL) {
        return;
    }
    if (output->fd >= 0) {
        (void)close(output->fd);
    }
    if (output->temporary != NULL && output->temporary[0] != '\0') {
        (void)unlink(output->temporary);
    }
    km_free(output->ctx, output->temporary);
    km_free(output->ctx, output->buffer);
    km_free(output->ctx, output->path);
    km_free(output->ctx, output);
}
