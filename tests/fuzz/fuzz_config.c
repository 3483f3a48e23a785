/* fuzz_config.c: any bytes as a config.json. */
#include "fuzz.h"

#include "model/config_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    km_config config = {0};
    km_error err = KM_ERROR_INIT;
    km_status status = km__config_from_json(&config, (const char *)data, size, &err);
    if (status == KM_OK) {
        status = km__config_check(&config, &err);
    }
    fuzz_check_error(status, &err);
    if (status == KM_OK && memchr(config.arch, '\0', sizeof(config.arch)) == NULL) {
        abort();
    }
    return 0;
}
