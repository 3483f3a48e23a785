/* memory.c: how much the process may still allocate: the machine's MemAvailable and every memory
 * limit of the control groups above the process (version 2 and version 1). */
#include "km/ctx.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/base.h"

#define PATH_BYTES 4096

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

/* The number after `key` in a file of "key number" lines; false when there is none. */
static bool read_field(const char *path, const char *key, uint64_t *out) {
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return false;
    }
    char line[256];
    size_t n = strlen(key);
    bool found = false;
    while (!found && fgets(line, sizeof line, file) != NULL) {
        found = strncmp(line, key, n) == 0 && sscanf(line + n, " %" SCNu64, out) == 1;
    }
    (void)fclose(file);
    return found;
}

/* What one control group leaves: its limit minus what it uses, where file pages that the kernel can
 * drop count as free. No limit ("max", or version 1's huge number): everything. */
static size_t rest_of_group(const char *folder, const char *limit_name, const char *usage_name) {
    char path[PATH_BYTES + 64];
    uint64_t limit, usage, inactive = 0;
    (void)snprintf(path, sizeof path, "%s/%s", folder, limit_name);
    if (!read_field(path, "", &limit)) {
        return SIZE_MAX;
    }
    (void)snprintf(path, sizeof path, "%s/%s", folder, usage_name);
    if (!read_field(path, "", &usage)) {
        return SIZE_MAX;
    }
    (void)snprintf(path, sizeof path, "%s/memory.stat", folder);
    if (!read_field(path, "total_inactive_file", &inactive)) {
        (void)read_field(path, "inactive_file", &inactive);
    }
    usage -= smaller(usage, inactive);
    return limit > usage ? (size_t)(limit - usage) : 0;
}

/* The smallest rest from the process's group up to the root of the hierarchy at `mount`. Inside a
 * container the group's own path may be hidden; then only the root answers. */
static size_t rest_of_hierarchy(const char *mount, const char *group, const char *limit_name,
                                const char *usage_name) {
    char folder[PATH_BYTES];
    int written = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (written < 0 || (size_t)written >= sizeof folder) {
        return SIZE_MAX;
    }
    size_t rest = SIZE_MAX;
    for (;;) {
        rest = smaller(rest, rest_of_group(folder, limit_name, usage_name));
        char *slash = strrchr(folder, '/');
        if (slash == NULL || slash < folder + strlen(mount)) {
            return rest;
        }
        *slash = '\0';
    }
}

/* A line of /proc/self/cgroup is "id:controllers:path"; version 2 has id 0 and no controllers. */
static size_t rest_of_line(char *line) {
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':');
    char *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
    if (group == NULL) {
        return SIZE_MAX;
    }
    *controllers++ = '\0';
    *group++ = '\0';
    if (strcmp(line, "0") == 0 && controllers[0] == '\0') {
        return rest_of_hierarchy("/sys/fs/cgroup", group, "memory.max", "memory.current");
    }
    if (strcmp(controllers, "memory") == 0) {
        return rest_of_hierarchy("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
                                 "memory.usage_in_bytes");
    }
    return SIZE_MAX;
}

static size_t rest_of_cgroups(void) {
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (file == NULL) {
        return SIZE_MAX;
    }
    char line[PATH_BYTES];
    size_t rest = SIZE_MAX;
    while (fgets(line, sizeof line, file) != NULL) {
        rest = smaller(rest, rest_of_line(line));
    }
    (void)fclose(file);
    return rest;
}

size_t km_memory_available(void) {
    uint64_t kib;
    size_t available = SIZE_MAX;
    if (read_field("/proc/meminfo", "MemAvailable:", &kib) && kib <= SIZE_MAX / 1024) {
        available = (size_t)kib * 1024;
    }
    return smaller(available, rest_of_cgroups());
}
