/* nfc.c: Unicode's form C, as the NFC normalizer of `tokenizers` computes it, with the way back to
 * the bytes of the input.
 *
 * Text is cut before every character that normalisation leaves alone; only runs that hold another
 * character are worked on: decomposed, marks put in the order of their combining classes, composed.
 * What a run changes becomes one block: all its bytes map to where the block starts in the input,
 * so tokens of a block cover what it was made from. Source: Unicode Standard Annex 15. */
#include <string.h>

#include "text/nfc_tables.h"
#include "text/text_private.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define HANGUL_FIRST 0xAC00u
#define HANGUL_COUNT 11172u
#define LEAD_FIRST 0x1100u
#define LEAD_COUNT 19u
#define VOWEL_FIRST 0x1161u
#define VOWEL_COUNT 21u
#define TAIL_FIRST 0x11A7u /* one before the first tail */
#define TAIL_COUNT 28u

/* ---- facts about characters ---- */

static bool is_active(uint32_t c) {
    size_t low = 0;
    size_t high = COUNT(km_nfc_active);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c < km_nfc_active[middle].first) {
            high = middle;
        } else if (c > km_nfc_active[middle].last) {
            low = middle + 1;
        } else {
            return true;
        }
    }
    return false;
}

static uint32_t combining_class(uint32_t c) {
    size_t low = 0;
    size_t high = COUNT(km_nfc_classes);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c < km_nfc_classes[middle].first) {
            high = middle;
        } else if (c > km_nfc_classes[middle].last) {
            low = middle + 1;
        } else {
            return km_nfc_classes[middle].value;
        }
    }
    return 0;
}

/* What two characters compose into, 0: nothing. */
static uint32_t compose_pair(uint32_t a, uint32_t b) {
    if (a - LEAD_FIRST < LEAD_COUNT && b - VOWEL_FIRST < VOWEL_COUNT) {
        return HANGUL_FIRST + ((a - LEAD_FIRST) * VOWEL_COUNT + b - VOWEL_FIRST) * TAIL_COUNT;
    }
    if (a - HANGUL_FIRST < HANGUL_COUNT && (a - HANGUL_FIRST) % TAIL_COUNT == 0 && b > TAIL_FIRST &&
        b - TAIL_FIRST < TAIL_COUNT) {
        return a + (b - TAIL_FIRST);
    }
    uint64_t wanted = (uint64_t)a << 32 | b;
    size_t low = 0;
    size_t high = COUNT(km_nfc_compositions);
    while (low < high) {
        size_t middle = (low + high) / 2;
        uint64_t key =
            (uint64_t)km_nfc_compositions[middle].first << 32 | km_nfc_compositions[middle].second;
        if (key == wanted) {
            return km_nfc_compositions[middle].whole;
        }
        if (key < wanted) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return 0;
}

/* ---- the characters of one run ---- */

static km_status push_char(km__nfc *work, uint32_t c, km_error *err) {
    if (work->n_chars == work->char_capacity) {
        int64_t wanted = work->char_capacity > 0 ? 2 * work->char_capacity : 64;
        void *block = work->chars;
        KM_TRY(km_realloc(&block, work->ctx, 2 * (size_t)wanted * sizeof *work->chars, err));
        work->chars = block;
        work->char_capacity = wanted;
    }
    work->chars[work->n_chars++] = (km__nfc_char){c, combining_class(c)};
    return KM_OK;
}

static km_status push_hangul(km__nfc *work, uint32_t c, km_error *err) {
    uint32_t index = c - HANGUL_FIRST;
    uint32_t tail = index % TAIL_COUNT;
    KM_TRY(push_char(work, LEAD_FIRST + index / TAIL_COUNT / VOWEL_COUNT, err));
    KM_TRY(push_char(work, VOWEL_FIRST + index / TAIL_COUNT % VOWEL_COUNT, err));
    return tail > 0 ? push_char(work, TAIL_FIRST + tail, err) : KM_OK;
}

static km_status push_decomposed(km__nfc *work, uint32_t c, km_error *err) {
    if (c - HANGUL_FIRST < HANGUL_COUNT) {
        return push_hangul(work, c, err);
    }
    size_t low = 0;
    size_t high = COUNT(km_nfc_decompositions);
    while (low < high) {
        size_t middle = (low + high) / 2;
        const struct km_nfc_decomposition *entry = &km_nfc_decompositions[middle];
        if (entry->whole == c) {
            for (size_t i = 0; i < entry->n; i++) {
                KM_TRY(push_char(work, km_nfc_parts[entry->at + i], err));
            }
            return KM_OK;
        }
        if (entry->whole < c) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return push_char(work, c, err);
}

/* Sort marks by class, equal ones staying in order: by counting, so that a megabyte of marks costs
 * no more than its length. The second half of the block is room. */
static void order_marks(km__nfc_char *marks, int64_t n, km__nfc_char *room) {
    int64_t place[256] = {0};
    bool sorted = true;
    for (int64_t i = 0; i < n; i++) {
        place[marks[i].class]++;
        sorted = sorted && (i == 0 || marks[i - 1].class <= marks[i].class);
    }
    if (sorted) {
        return;
    }
    int64_t at = 0;
    for (int i = 0; i < 256; i++) {
        int64_t count = place[i];
        place[i] = at;
        at += count;
    }
    for (int64_t i = 0; i < n; i++) {
        room[place[marks[i].class]++] = marks[i];
    }
    memcpy(marks, room, (size_t)n * sizeof *marks);
}

static void order_all(km__nfc *work) {
    km__nfc_char *room = work->chars + work->char_capacity;
    for (int64_t at = 0; at < work->n_chars;) {
        if (work->chars[at].class == 0) {
            at++;
            continue;
        }
        int64_t end = at;
        while (end < work->n_chars && work->chars[end].class != 0) {
            end++;
        }
        order_marks(work->chars + at, end - at, room);
        at = end;
    }
}

/* Compose in place: a character joins the last starter when nothing between them has its class or a
 * higher one. */
static void compose_all(km__nfc *work) {
    km__nfc_char *chars = work->chars;
    int64_t starter = -1;
    int64_t m = 0;
    for (int64_t i = 0; i < work->n_chars; i++) {
        km__nfc_char c = chars[i];
        bool beside = m == starter + 1;
        bool blocked = !beside && chars[m - 1].class >= c.class;
        uint32_t whole =
            starter >= 0 && !blocked ? compose_pair(chars[starter].code_point, c.code_point) : 0;
        if (whole != 0) {
            chars[starter].code_point = whole;
            continue;
        }
        if (c.class == 0) {
            starter = m;
        }
        chars[m++] = c;
    }
    work->n_chars = m;
}

/* ---- the whole text ---- */

static void put(km__nfc *work, uint32_t c, int64_t from, bool whole) {
    size_t n = km__utf8_encode(work->text + work->n, c);
    for (size_t i = 0; i < n; i++) {
        work->map[work->n + i] = from + (whole ? (int64_t)i : 0);
    }
    work->n += n;
}

/* Room for `more` bytes and the last offset. */
static km_status reserve(km__nfc *work, size_t more, km_error *err) {
    size_t wanted, bytes;
    if (!km_size_add(&wanted, work->n, more) || !km_size_add(&wanted, wanted, 1)) {
        return KM_SET(err, KM_ENOMEM, "a text of that length does not fit into memory");
    }
    if (wanted <= work->capacity) {
        return KM_OK;
    }
    wanted += wanted / 2;
    if (!km_size_mul(&bytes, wanted, sizeof(int64_t))) {
        return KM_SET(err, KM_ENOMEM, "%zu offsets do not fit into memory", wanted);
    }
    void *text = work->text;
    void *map = work->map;
    KM_TRY(km_realloc(&text, work->ctx, wanted, err));
    work->text = text;
    KM_TRY(km_realloc(&map, work->ctx, bytes, err));
    work->map = map;
    work->capacity = wanted;
    return KM_OK;
}

/* Write a normalised run: characters equal to the input's first ones as they are, the rest as one
 * block. */
static km_status write_run(km__nfc *work, const char *text, size_t from, size_t to, km_error *err) {
    KM_TRY(reserve(work, 4 * (size_t)work->n_chars, err));
    bool same = true;
    for (int64_t i = 0; i < work->n_chars; i++) {
        uint32_t c = 0;
        size_t length = 0;
        if (same && from < to) {
            length = km__utf8_decode(&c, text + from, to - from);
        }
        same = same && from < to && c == work->chars[i].code_point;
        put(work, work->chars[i].code_point, work->base + (int64_t)from, same);
        from += same ? length : 0;
    }
    return KM_OK;
}

static km_status normalise_run(km__nfc *work, const char *text, size_t from, size_t to,
                               km_error *err) {
    work->n_chars = 0;
    for (size_t at = from; at < to;) {
        uint32_t c;
        at += km__utf8_decode(&c, text + at, to - at);
        KM_TRY(push_decomposed(work, c, err));
    }
    order_all(work);
    compose_all(work);
    return write_run(work, text, from, to, err);
}

static km_status copy_run(km__nfc *work, const char *text, size_t from, size_t to, km_error *err) {
    KM_TRY(reserve(work, to - from, err));
    memcpy(work->text + work->n, text + from, to - from);
    for (size_t at = from; at < to; at++) {
        work->map[work->n++] = work->base + (int64_t)at;
    }
    return KM_OK;
}

bool km__nfc_needed(const char *text, size_t n) {
    for (size_t at = 0; at < n;) {
        if ((unsigned char)text[at] < 0xCC) { /* below U+0300 */
            at++;
            continue;
        }
        uint32_t c;
        at += km__utf8_decode(&c, text + at, n - at);
        if (is_active(c)) {
            return true;
        }
    }
    return false;
}

km_status km__nfc_run(km__nfc *work, const char *text, size_t n, int64_t base, km_error *err) {
    size_t start = 0; /* of the last character that is left alone, or of the run after it */
    size_t done = 0;  /* written so far */
    bool changes = false;
    work->n = 0;
    work->base = base;
    for (size_t at = 0; at <= n;) {
        uint32_t c = 0;
        size_t length = at < n ? km__utf8_decode(&c, text + at, n - at) : 1;
        bool active = at < n && is_active(c);
        if (!active) {
            if (changes) {
                KM_TRY(copy_run(work, text, done, start, err));
                KM_TRY(normalise_run(work, text, start, at, err));
                done = at;
                changes = false;
            }
            start = at;
        }
        changes = changes || active;
        at += length;
    }
    KM_TRY(copy_run(work, text, done, n, err));
    work->map[work->n] = base + (int64_t)n;
    return KM_OK;
}

void km__nfc_clear(km__nfc *work) {
    km_free(work->ctx, work->text);
    km_free(work->ctx, work->map);
    km_free(work->ctx, work->chars);
    *work = (km__nfc){.ctx = work->ctx};
}
