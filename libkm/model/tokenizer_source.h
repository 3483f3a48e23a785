/* tokenizer_source.h: the part of tokenizer_source.c that needs no file, for tests. Private. */
#ifndef KM_MODEL_TOKENIZER_SOURCE_H
#define KM_MODEL_TOKENIZER_SOURCE_H

#include "io/io.h"
#include "km/text.h"

/* Build the tokenizer a GGUF's metadata describes. Errors: KM_EFORMAT, KM_EUNSUPPORTED (kind or
 * pre-tokenizer, by name), KM_ENOTFOUND (a key it needs). */
KM_NODISCARD km_status km__tokenizer_from_gguf(km_tokenizer **out, km_ctx *ctx, const km_gguf *gguf,
                                               km_error *err);

#endif
