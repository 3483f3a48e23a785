/* text.c: strings of pictures: checks, growing buffers, escapes for XML and for Graphviz labels,
 * and how wide a line can become.
 *
 * Node sizes come from here and never from the fonts of the machine: a label is measured with the
 * advance widths of DejaVu Sans, which is wider than Helvetica and Arial, so that a browser that
 * picks one of those never cuts a label. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "viz_private.h"

/* Advance widths in thousandths of the font size for U+0020 to U+007E: a fact of the fonts DejaVu
 * Sans and DejaVu Sans Bold 2.37. */
static const uint16_t regular_advance[95] = {
    318, 401, 460, 838, 636, 950, 780, 275, 390, 390, 500, 838, 318, 361,  318, 337, 636, 636, 636,
    636, 636, 636, 636, 636, 636, 636, 337, 337, 838, 838, 838, 531, 1000, 684, 686, 698, 770, 632,
    575, 775, 752, 295, 295, 656, 557, 863, 748, 787, 603, 787, 695, 635,  611, 732, 684, 989, 685,
    611, 685, 390, 337, 390, 838, 500, 500, 613, 635, 550, 635, 615, 352,  635, 634, 278, 278, 579,
    278, 974, 634, 612, 635, 635, 411, 521, 392, 634, 592, 818, 592, 592,  525, 636, 337, 636, 838};
static const uint16_t bold_advance[95] = {
    348,  456, 521, 838, 696, 1002, 872, 306,  457, 457, 523, 838, 380, 415,  380, 365,
    696,  696, 696, 696, 696, 696,  696, 696,  696, 696, 400, 400, 838, 838,  838, 580,
    1000, 774, 762, 734, 830, 683,  683, 821,  837, 372, 372, 775, 637, 995,  837, 850,
    733,  850, 770, 720, 682, 812,  774, 1103, 771, 724, 725, 457, 365, 457,  838, 500,
    500,  675, 716, 593, 716, 678,  435, 716,  712, 343, 343, 665, 343, 1042, 712, 687,
    716,  716, 493, 595, 478, 712,  652, 924,  645, 652, 582, 712, 365, 712,  838};

/* Decode one code point of valid UTF-8; *used is its length. */
static uint32_t decode(const unsigned char *text, size_t *used) {
    if (text[0] < 0x80) {
        *used = 1;
        return text[0];
    }
    if (text[0] < 0xe0) {
        *used = 2;
        return (uint32_t)(text[0] & 0x1f) << 6 | (text[1] & 0x3f);
    }
    if (text[0] < 0xf0) {
        *used = 3;
        return (uint32_t)(text[0] & 0x0f) << 12 | (uint32_t)(text[1] & 0x3f) << 6 |
               (text[2] & 0x3f);
    }
    *used = 4;
    return (uint32_t)(text[0] & 0x07) << 18 | (uint32_t)(text[1] & 0x3f) << 12 |
           (uint32_t)(text[2] & 0x3f) << 6 | (text[3] & 0x3f);
}

static bool takes_no_room(uint32_t c) {
    return (c >= 0x300 && c <= 0x36f) || (c >= 0x200b && c <= 0x200f) ||
           (c >= 0xfe00 && c <= 0xfe0f);
}

/* Thousandths of the font size, an upper bound by block for what the table does not hold. */
static double advance(uint32_t c, bool bold) {
    if (c >= 0x20 && c <= 0x7e) {
        return bold ? bold_advance[c - 0x20] : regular_advance[c - 0x20];
    }
    if (takes_no_room(c)) {
        return 0.0;
    }
    double regular = c < 0x250 ? 760.0 : c < 0x900 ? 860.0 : c < 0x10000 ? 1020.0 : 1360.0;
    return bold ? 1.13 * regular : regular;
}

double km_text_width(const char *text, size_t n, double font_size, bool bold) {
    double total = 0.0;
    size_t used = 0;
    for (size_t i = 0; i < n; i += used) {
        total += advance(decode((const unsigned char *)text + i, &used), bold);
    }
    return total * font_size / 1000.0;
}

const char *km__viz_line(const char *label, int64_t line, size_t *n) {
    const char *start = label;
    for (int64_t i = 0; i < line; i++) {
        start = strchr(start, '\n');
        if (start == NULL) {
            return NULL;
        }
        start++;
    }
    *n = strcspn(start, "\n");
    return start;
}

double km__viz_label_width(const char *label, double font_size, bool bold, int64_t *n_lines) {
    double widest = 0.0;
    const char *start = label;
    for (*n_lines = 0;; (*n_lines)++) {
        size_t n = strcspn(start, "\n");
        widest = fmax(widest, km_text_width(start, n, font_size, bold));
        if (start[n] == '\0') {
            (*n_lines)++;
            return widest;
        }
        start += n + 1;
    }
}

/* XML 1.0 has no way to write these, and Graphviz passes them through. */
static bool is_forbidden(uint32_t c) {
    return (c < 0x20 && c != '\n') || c == 0x7f || c == 0xfffe || c == 0xffff;
}

km_status km__viz_check_text(const char *text, const char *what, km_error *err) {
    if (text == NULL) {
        return KM_OK;
    }
    size_t n = strlen(text);
    if (n > KM_GRAPH_MAX_TEXT) {
        return KM_SET(err, KM_EINVAL, "%s: %zu bytes of text, at most %d are drawn", what, n,
                      KM_GRAPH_MAX_TEXT);
    }
    if (!km_utf8_valid(text, n)) {
        return KM_SET(err, KM_EINVAL, "%s: the text is not valid UTF-8", what);
    }
    size_t used = 0;
    for (size_t i = 0; i < n; i += used) {
        uint32_t c = decode((const unsigned char *)text + i, &used);
        if (is_forbidden(c)) {
            return KM_SET(err, KM_EINVAL,
                          "%s: U+%04X at byte %zu cannot be drawn; only the line feed is allowed "
                          "among control characters",
                          what, (unsigned)c, i);
        }
    }
    return KM_OK;
}

static km_status reserve(km_viz_text *out, size_t more, km_error *err) {
    size_t need = 0;
    if (!km_size_add(&need, out->size, more) || !km_size_add(&need, need, 1)) {
        return KM_SET(err, KM_ENOMEM, "picture too large");
    }
    if (need <= out->capacity) {
        return KM_OK;
    }
    size_t capacity = need < 4096 ? 4096 : need + need / 2;
    void *bytes = out->bytes;
    KM_TRY(km_realloc(&bytes, out->ctx, capacity, err));
    out->bytes = bytes;
    out->capacity = capacity;
    return KM_OK;
}

km_status km__viz_add(km_viz_text *out, const char *bytes, size_t n, km_error *err) {
    KM_TRY(reserve(out, n, err));
    memcpy(out->bytes + out->size, bytes, n);
    out->size += n;
    out->bytes[out->size] = '\0';
    return KM_OK;
}

km_status km__viz_adds(km_viz_text *out, const char *text, km_error *err) {
    return km__viz_add(out, text, strlen(text), err);
}

km_status km__viz_add_number(km_viz_text *out, double value, km_error *err) {
    int64_t hundredths = (int64_t)llround(100.0 * value);
    int64_t size = hundredths < 0 ? -hundredths : hundredths;
    char digits[32];
    int n = snprintf(digits, sizeof digits, "%s%" PRId64 ".%02d", hundredths < 0 ? "-" : "",
                     size / 100, (int)(size % 100));
    return km__viz_add(out, digits, (size_t)n, err);
}

km_status km__viz_add_xml(km_viz_text *out, const char *text, size_t n, km_error *err) {
    for (size_t i = 0; i < n; i++) {
        switch (text[i]) {
        case '&':
            KM_TRY(km__viz_adds(out, "&amp;", err));
            break;
        case '<':
            KM_TRY(km__viz_adds(out, "&lt;", err));
            break;
        case '>':
            KM_TRY(km__viz_adds(out, "&gt;", err));
            break;
        case '"':
            KM_TRY(km__viz_adds(out, "&quot;", err));
            break;
        default:
            KM_TRY(km__viz_add(out, text + i, 1, err));
        }
    }
    return KM_OK;
}

/* Graphviz ends a line by \n (centred), \l (left) or \r (right). A left or right label needs the
 * escape after its last line too. */
static km_status add_line_end(km_viz_text *out, km_align align, km_error *err) {
    static const char *const ends[KM_ALIGN_COUNT] = {"\\n", "\\l", "\\r"};
    return km__viz_adds(out, ends[align], err);
}

km_status km__viz_add_label(km_viz_text *out, const char *text, km_align align, km_error *err) {
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '\n') {
            KM_TRY(add_line_end(out, align, err));
        } else if (*p == '\\') {
            KM_TRY(km__viz_adds(out, "\\\\", err));
        } else if (*p == '&') {
            KM_TRY(km__viz_adds(out, "&amp;", err));
        } else {
            KM_TRY(km__viz_add(out, p, 1, err));
        }
    }
    if (align != KM_ALIGN_CENTRE && *text != '\0') {
        KM_TRY(add_line_end(out, align, err));
    }
    return km__viz_add(out, "", 0, err);
}

void km__viz_text_clear(km_viz_text *text) {
    km_free(text->ctx, text->bytes);
    text->bytes = NULL;
    text->size = 0;
    text->capacity = 0;
}
