/* km/viz.h: plain graphs drawn by Graphviz in process: SVG, PNG, PDF or DOT bytes.
 *
 * A graph is nodes (one kind of text each), edges, clusters and legend entries around a title, a
 * subtitle and a footnote. Positions are either given (KM_LAYOUT_FIXED) or found by a Graphviz
 * engine. Lengths are points (1/72 inch), x to the right, y downwards.
 *
 * Text is data: every string must be well-formed UTF-8 without control characters, is never parsed
 * as markup or as a Graphviz escape, and comes back from the SVG unchanged. SVG output is rebuilt
 * from an allow-list of elements and attributes, carries <title> and <desc>, and follows the
 * reader's light or dark colour scheme.
 *
 * Threads: a km_graph belongs to one thread at a time; km_graph_render takes one process-wide lock
 * because Graphviz keeps global state.
 */
#ifndef KM_VIZ_H
#define KM_VIZ_H

#include <stdbool.h>

#include "km/ctx.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KM_GRAPH_MAX_NODES 5000
#define KM_GRAPH_MAX_EDGES 20000
#define KM_GRAPH_MAX_TEXT 8192 /* bytes in one string */

typedef struct km_graph km_graph;

typedef enum km_layout {
    KM_LAYOUT_FIXED,  /* nodes carry their positions */
    KM_LAYOUT_DOWN,   /* dot, ranks from top to bottom */
    KM_LAYOUT_RIGHT,  /* dot, ranks from left to right */
    KM_LAYOUT_SPRING, /* neato */
    KM_LAYOUT_RADIAL, /* twopi */
    KM_LAYOUT_COUNT
} km_layout;

typedef enum km_shape {
    KM_SHAPE_PLAIN, /* text alone */
    KM_SHAPE_BOX,
    KM_SHAPE_ROUND, /* box with rounded corners */
    KM_SHAPE_ELLIPSE,
    KM_SHAPE_DIAMOND,
    KM_SHAPE_TRIANGLE,
    KM_SHAPE_INVTRIANGLE,
    KM_SHAPE_HEXAGON,
    KM_SHAPE_COUNT
} km_shape;

/* Colours by meaning, each with a light and a dark value. The named hues are Okabe and Ito's
 * colour-blind-safe set; the pale ones are the same hues as backgrounds. */
typedef enum km_paint {
    KM_PAINT_NONE,
    KM_PAINT_PAPER,
    KM_PAINT_INK,
    KM_PAINT_MUTED,
    KM_PAINT_LINE,
    KM_PAINT_GRID,
    KM_PAINT_FAINT,
    KM_PAINT_BLUE,
    KM_PAINT_SKY,
    KM_PAINT_GREEN,
    KM_PAINT_ORANGE,
    KM_PAINT_VERMILION,
    KM_PAINT_PURPLE,
    KM_PAINT_YELLOW,
    KM_PAINT_PALE_BLUE,
    KM_PAINT_MID_BLUE,
    KM_PAINT_PALE_GREEN,
    KM_PAINT_PALE_ORANGE,
    KM_PAINT_PALE_VERMILION,
    KM_PAINT_PALE_PURPLE,
    KM_PAINT_MID_GREEN,
    KM_PAINT_MID_VERMILION,
    KM_PAINT_COUNT
} km_paint;

typedef enum km_align { KM_ALIGN_CENTRE, KM_ALIGN_LEFT, KM_ALIGN_RIGHT, KM_ALIGN_COUNT } km_align;

typedef enum km_stroke {
    KM_STROKE_SOLID,
    KM_STROKE_DASHED,
    KM_STROKE_DOTTED,
    KM_STROKE_COUNT
} km_stroke;

/* How an edge runs between fixed nodes; engines route their own. */
typedef enum km_route {
    KM_ROUTE_LINE,   /* straight, centre to centre, below the nodes */
    KM_ROUTE_ACROSS, /* smooth, from the right side to the left side */
    KM_ROUTE_DOWN,   /* smooth, from the lower side to the upper side */
    KM_ROUTE_COUNT
} km_route;

typedef enum km_format {
    KM_FORMAT_SVG,
    KM_FORMAT_PNG,
    KM_FORMAT_PDF,
    KM_FORMAT_DOT,
    KM_FORMAT_COUNT
} km_format;

/* Which of a paint's two values is drawn. AUTO follows the reader's setting in SVG and is light in
 * every other format. */
typedef enum km_theme { KM_THEME_AUTO, KM_THEME_LIGHT, KM_THEME_DARK, KM_THEME_COUNT } km_theme;

typedef struct km_graph_text {
    const char *title;       /* also the document's <title>; NULL or "": none */
    const char *subtitle;    /* below the title; '\n' separates lines */
    const char *description; /* <desc>, for readers who cannot see the picture */
    const char *footnote;    /* below the picture: n, model, date; '\n' separates lines */
} km_graph_text;

typedef struct km_graph_node {
    const char *label; /* '\n' separates lines; NULL or "": none */
    const char *title; /* shown on hovering; NULL: the label */
    km_shape shape;
    km_paint fill, stroke, text;
    km_align align;
    double x, y;          /* centre; used by KM_LAYOUT_FIXED */
    double width, height; /* 0: as large as the label needs */
    double font_size;     /* 0: 10 */
    double pen;           /* outline width; 0: 1 */
    bool bold;
    km_stroke style;
    int64_t cluster; /* -1: none */
} km_graph_node;

#define KM_GRAPH_NODE_INIT                                                                         \
    {NULL,                                                                                         \
     NULL,                                                                                         \
     KM_SHAPE_ROUND,                                                                               \
     KM_PAINT_NONE,                                                                                \
     KM_PAINT_LINE,                                                                                \
     KM_PAINT_INK,                                                                                 \
     KM_ALIGN_CENTRE,                                                                              \
     0.0,                                                                                          \
     0.0,                                                                                          \
     0.0,                                                                                          \
     0.0,                                                                                          \
     0.0,                                                                                          \
     0.0,                                                                                          \
     false,                                                                                        \
     KM_STROKE_SOLID,                                                                              \
     -1}

typedef struct km_graph_edge {
    int64_t from, to;  /* as km_graph_add_node numbered them */
    const char *label; /* drawn by engines only; NULL: none */
    const char *title; /* shown on hovering; NULL: none */
    km_paint paint;
    double width;  /* points; 0: 1 */
    double weight; /* pull in an engine's layout; 0: 1 */
    bool arrow;
    km_stroke style;
    km_route route;
} km_graph_edge;

#define KM_GRAPH_EDGE_INIT                                                                         \
    {0, 0, NULL, NULL, KM_PAINT_LINE, 0.0, 0.0, false, KM_STROKE_SOLID, KM_ROUTE_LINE}

/* One line of the legend: a mark and its meaning. */
typedef struct km_graph_legend {
    const char *label;
    km_shape shape;
    km_paint fill, stroke;
    double width, height; /* of the mark; 0: 9 */
    km_stroke style;
} km_graph_legend;

typedef struct km_picture {
    char *bytes; /* size bytes and a closing NUL */
    size_t size;
    km_ctx *ctx;
} km_picture;

#define KM_PICTURE_INIT {NULL, 0, NULL}

/* An empty graph. text may be NULL; strings are copied. Errors: KM_EINVAL for a string that is not
 * UTF-8, holds a control character or is longer than KM_GRAPH_MAX_TEXT; KM_ENOMEM. */
KM_API KM_NODISCARD km_status km_graph_new(km_graph **out, km_ctx *ctx, km_layout layout,
                                           const km_graph_text *text, km_error *err);
/* NULL is a no-op. */
KM_API void km_graph_free(km_graph *graph);

/* Add a node; *out (may be NULL) is its number, 0, 1, 2, ... Errors: KM_EINVAL (a string as above,
 * an enum value, a cluster that is not there), KM_ERANGE for a length that is not finite, negative
 * or beyond 20,000 points, KM_EUNSUPPORTED beyond KM_GRAPH_MAX_NODES nodes. */
KM_API KM_NODISCARD km_status km_graph_add_node(int64_t *out, km_graph *graph,
                                                const km_graph_node *node, km_error *err);

/* Add an edge between two nodes that are there. Errors as for nodes. */
KM_API KM_NODISCARD km_status km_graph_add_edge(int64_t *out, km_graph *graph,
                                                const km_graph_edge *edge, km_error *err);

/* Add a cluster: a labelled frame around the nodes that name it. */
KM_API KM_NODISCARD km_status km_graph_add_cluster(int64_t *out, km_graph *graph, const char *label,
                                                   km_error *err);

/* Add an entry to the legend above the picture, in the order of the calls. Errors as for nodes. */
KM_API KM_NODISCARD km_status km_graph_add_legend(km_graph *graph, const km_graph_legend *entry,
                                                  km_error *err);

/* Nodes added so far. */
KM_API int64_t km_graph_n_nodes(const km_graph *graph);
/* Edges added so far. */
KM_API int64_t km_graph_n_edges(const km_graph *graph);

/* Lay out and draw. scale multiplies PNG resolution alone (1: 72 dots an inch). *out is cleared
 * first and owned by the caller (km_picture_clear). The same graph gives the same SVG bytes on one
 * machine. Errors: KM_EINVAL, KM_ERANGE (scale outside 0.1 to 8, or a PNG beyond 30,000 pixels a
 * side), KM_EUNSUPPORTED (Graphviz was installed without this writer), KM_ENOMEM, KM_EINTERNAL
 * (Graphviz failed; its own message is in the error). */
KM_API KM_NODISCARD km_status km_graph_render(km_picture *out, const km_graph *graph,
                                              km_format format, km_theme theme, double scale,
                                              km_error *err);
/* Free the bytes; idempotent. */
KM_API void km_picture_clear(km_picture *picture);

/* Width in points of one line of text in the widest font the pictures name, so that a box of this
 * size never cuts its label. text is valid UTF-8 of n bytes. */
KM_API double km_text_width(const char *text, size_t n, double font_size, bool bold);

/* A km_layout by its name: fixed, down, right, spring or radial; -1 for any other. */
KM_API int km_layout_from_name(const char *name);
/* A km_shape: plain, box, round, ellipse, diamond, triangle, invtriangle, hexagon; or -1. */
KM_API int km_shape_from_name(const char *name);
/* A km_paint: the constant's end in small letters with hyphens, such as "pale-blue"; or -1. */
KM_API int km_paint_from_name(const char *name);
/* "#rrggbb" of a paint for light or dark grounds, or "none"; for other programs' figures beside
 * km's. */
KM_API const char *km_paint_hex(km_paint paint, bool dark);
/* A km_align: centre, left, right; or -1. */
KM_API int km_align_from_name(const char *name);
/* A km_stroke: solid, dashed, dotted; or -1. */
KM_API int km_stroke_from_name(const char *name);
/* A km_route: line, across, down; or -1. */
KM_API int km_route_from_name(const char *name);
/* A km_format: svg, png, pdf, dot; or -1. */
KM_API int km_format_from_name(const char *name);
/* A km_theme: auto, light, dark; or -1. */
KM_API int km_theme_from_name(const char *name);

#ifdef __cplusplus
}
#endif

#endif
