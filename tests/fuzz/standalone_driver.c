/* standalone_driver.c: run a parser target over every file of a folder, whole and cut short at many
 * lengths, each in a block of exactly its size so that the address sanitizer sees one byte too far.
 * usage: fuzz_PARSER FOLDER */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_CUTS 256
#define SECONDS_AN_INPUT 20

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size > 0 ? size : 1);
    if (copy == NULL) {
        abort();
    }
    memcpy(copy, data, size);
    (void)alarm(SECONDS_AN_INPUT); /* a hang ends the process */
    (void)LLVMFuzzerTestOneInput(copy, size);
    (void)alarm(0);
    free(copy);
}

static void run_file(const char *folder, const char *name) {
    char path[4096];
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(1);
    }
    size_t size = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = malloc(size + 1);
    if (data == NULL || fread(data, 1, size, file) != size) {
        perror(path);
        exit(1);
    }
    (void)fclose(file);
    size_t step = size / MAX_CUTS + 1;
    for (size_t n = 0; n < size; n += step) {
        run(data, n);
    }
    run(data, size);
    free(data);
}

int main(int argc, char **argv) {
    DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
    if (folder == NULL) {
        (void)fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    int n = 0;
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        if (entry->d_name[0] != '.') {
            run_file(argv[1], entry->d_name);
            n++;
        }
    }
    (void)closedir(folder);
    (void)printf("%d files\n", n);
    return n > 0 ? 0 : 1;
}
