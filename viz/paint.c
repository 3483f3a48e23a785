/* paint.c: the colours of pictures and the names of every enumeration in km/viz.h.
 *
 * Named hues are the set of Okabe and Ito (2008), which stays apart for the common forms of colour
 * blindness; their dark values are lightened where the original has too little contrast on a dark
 * ground. */
#include <string.h>

#include "viz_private.h"

typedef struct paint_row {
    const char *name, *light, *dark;
} paint_row;

static const paint_row paints[KM_PAINT_COUNT] = {
    [KM_PAINT_NONE] = {"none", "none", "none"},
    [KM_PAINT_PAPER] = {"paper", "#ffffff", "#14171b"},
    [KM_PAINT_INK] = {"ink", "#1b1f24", "#e8eaed"},
    [KM_PAINT_MUTED] = {"muted", "#59626d", "#a6afba"},
    [KM_PAINT_LINE] = {"line", "#b4bcc6", "#56606c"},
    [KM_PAINT_GRID] = {"grid", "#e3e7eb", "#2c333b"},
    [KM_PAINT_FAINT] = {"faint", "#f3f5f7", "#1e2329"},
    [KM_PAINT_BLUE] = {"blue", "#0072b2", "#4aa5dd"},
    [KM_PAINT_SKY] = {"sky", "#56b4e9", "#8ccff5"},
    [KM_PAINT_GREEN] = {"green", "#009e73", "#2dbf96"},
    [KM_PAINT_ORANGE] = {"orange", "#e69f00", "#f0b232"},
    [KM_PAINT_VERMILION] = {"vermilion", "#d55e00", "#f2803a"},
    [KM_PAINT_PURPLE] = {"purple", "#cc79a7", "#de97be"},
    [KM_PAINT_YELLOW] = {"yellow", "#f0e442", "#f3e85c"},
    [KM_PAINT_PALE_BLUE] = {"pale-blue", "#e2eff8", "#172c3d"},
    [KM_PAINT_MID_BLUE] = {"mid-blue", "#b7d8ee", "#1f4a69"},
    [KM_PAINT_PALE_GREEN] = {"pale-green", "#ddf2ea", "#14362c"},
    [KM_PAINT_PALE_ORANGE] = {"pale-orange", "#fdf1d6", "#3d300f"},
    [KM_PAINT_PALE_VERMILION] = {"pale-vermilion", "#fbe6d7", "#43260f"},
    [KM_PAINT_PALE_PURPLE] = {"pale-purple", "#f7e7f0", "#3d2635"},
    [KM_PAINT_MID_GREEN] = {"mid-green", "#a5dcc8", "#1e5b49"},
    [KM_PAINT_MID_VERMILION] = {"mid-vermilion", "#f3c09b", "#6e3c17"},
};

static const char *const layout_names[KM_LAYOUT_COUNT] = {"fixed", "down", "right", "spring",
                                                          "radial"};
static const char *const shape_names[KM_SHAPE_COUNT] = {
    "plain", "box", "round", "ellipse", "diamond", "triangle", "invtriangle", "hexagon"};
static const char *const align_names[KM_ALIGN_COUNT] = {"centre", "left", "right"};
static const char *const stroke_names[KM_STROKE_COUNT] = {"solid", "dashed", "dotted"};
static const char *const route_names[KM_ROUTE_COUNT] = {"line", "across", "down"};
static const char *const format_names[KM_FORMAT_COUNT] = {"svg", "png", "pdf", "dot"};
static const char *const theme_names[KM_THEME_COUNT] = {"auto", "light", "dark"};

static int find(const char *const *names, int n, const char *name) {
    for (int i = 0; i < n; i++) {
        if (strcmp(names[i], name) == 0) {
            return i;
        }
    }
    return -1;
}

static km_status add_rule(km_viz_text *out, const char *name, const char *kind,
                          const char *property, const char *hex, km_error *err) {
    const char *parts[] = {".km-picture .", kind, "-", name, "{", property, ":", hex, "}"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        KM_TRY(km__viz_adds(out, parts[i], err));
    }
    return KM_OK;
}

static km_status add_dark_rules(km_viz_text *out, km_error *err) {
    for (int i = KM_PAINT_PAPER; i < KM_PAINT_COUNT; i++) {
        KM_TRY(add_rule(out, paints[i].name, "f", "fill", paints[i].dark, err));
        KM_TRY(add_rule(out, paints[i].name, "s", "stroke", paints[i].dark, err));
    }
    return KM_OK;
}

const char *km_paint_hex(km_paint paint, bool dark) {
    return dark ? paints[paint].dark : paints[paint].light;
}

km_paint km__viz_paint_of(const char *hex, size_t n, bool dark) {
    for (int i = KM_PAINT_PAPER; i < KM_PAINT_COUNT; i++) {
        const char *mine = dark ? paints[i].dark : paints[i].light;
        if (strlen(mine) == n && memcmp(mine, hex, n) == 0) {
            return (km_paint)i;
        }
    }
    return KM_PAINT_NONE;
}

/* The light colours are in the elements themselves for readers without style sheets; rules are
 * needed only where the reader may ask for dark. */
km_status km__viz_add_style(km_viz_text *out, km_theme theme, km_error *err) {
    KM_TRY(km__viz_adds(out, "<style>.km-picture{max-width:100%;height:auto}", err));
    KM_TRY(km__viz_adds(out, ".km-picture text{white-space:pre}", err));
    if (theme == KM_THEME_AUTO) {
        KM_TRY(km__viz_adds(out, "@media (prefers-color-scheme:dark){", err));
        KM_TRY(add_dark_rules(out, err));
        KM_TRY(km__viz_adds(out, "}", err));
    }
    return km__viz_adds(out, "</style>\n", err);
}

const char *km__viz_paint_name(km_paint paint) {
    return paints[paint].name;
}

int km_layout_from_name(const char *name) {
    return find(layout_names, KM_LAYOUT_COUNT, name);
}

int km_shape_from_name(const char *name) {
    return find(shape_names, KM_SHAPE_COUNT, name);
}

int km_paint_from_name(const char *name) {
    for (int i = 0; i < KM_PAINT_COUNT; i++) {
        if (strcmp(paints[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

int km_align_from_name(const char *name) {
    return find(align_names, KM_ALIGN_COUNT, name);
}

int km_stroke_from_name(const char *name) {
    return find(stroke_names, KM_STROKE_COUNT, name);
}

int km_route_from_name(const char *name) {
    return find(route_names, KM_ROUTE_COUNT, name);
}

int km_format_from_name(const char *name) {
    return find(format_names, KM_FORMAT_COUNT, name);
}

int km_theme_from_name(const char *name) {
    return find(theme_names, KM_THEME_COUNT, name);
}
