/* json_private.h: what reading a tokenizer.json is divided into. */
#ifndef KM_TEXT_JSON_PRIVATE_H
#define KM_TEXT_JSON_PRIVATE_H

#include "base/json.h"
#include "text/spec.h"

/* ---- json_parts.c: components recognised by structure; the rest is KM_EUNSUPPORTED, by name ----
 */

/* The string of a member, NULL when it is absent or no string. */
const char *km__json_text(const json_t *object, const char *key);
/* A string of the document for an error message; NULL: "(none)". */
const char *km__json_quote(char out[KM__QUOTE], const char *text);
bool km__json_true(const json_t *object, const char *key);

/* What the components around the model say. */
typedef struct km__json_parts {
    const char *pre; /* name of the pre-tokenizer; NULL for SPM */
    bool nfc;        /* the normalizer is NFC */
    bool marks;      /* it replaces blanks by U+2581 */
    km_prefix prefix;
    const char *bos; /* text of the token put before every text, NULL: none */
    int64_t bos_id;  /* its id as the file says */
} km__json_parts;

KM_NODISCARD km_status km__json_parts_read(km__json_parts *out, const json_t *root,
                                           km_tokenizer_kind kind, km_error *err);

#endif
