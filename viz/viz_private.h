/* viz_private.h: the graph as viz keeps it, and what its files share. Private to viz and tests. */
#ifndef KM_VIZ_PRIVATE_H
#define KM_VIZ_PRIVATE_H

#include "base/base.h"
#include "km/viz.h"

struct km_graph {
    km_ctx *ctx;
    km_arena *strings;
    km_layout layout;
    km_graph_text text;
    km_graph_node *nodes;
    km_graph_edge *edges;
    km_graph_legend *legend;
    const char **clusters; /* labels */
    int64_t n_nodes, n_edges, n_legend, n_clusters;
    int64_t cap_nodes, cap_edges, cap_legend, cap_clusters;
};

/* x to the right, y downwards. */
typedef struct km_viz_box {
    double left, top, right, bottom;
} km_viz_box;

/* A graph with everything in its place: the graph's own nodes come first, with positions and
 * sizes; title, legend, frames and footnote follow as further nodes. */
typedef struct km_viz_scene {
    km_ctx *ctx;
    km_arena *strings;
    const km_graph *graph;
    km_graph_node *nodes;
    int64_t n_nodes, cap_nodes;
    bool bare;            /* the graph alone: no title, legend, frames or footnote */
    const char **splines; /* one an edge of the graph, in Graphviz's own form (y upwards) */
} km_viz_scene;

/* A string being built; bytes stay NUL-terminated once anything was added. */
typedef struct km_viz_text {
    km_ctx *ctx;
    char *bytes;
    size_t size, capacity;
} km_viz_text;

#define KM_VIZ_PAD 14.0         /* around the picture, points */
#define KM_VIZ_LINE_HEIGHT 1.25 /* times the font size */
#define KM_VIZ_FONT_SIZE 10.0

/* ---- text.c ---- */

KM_NODISCARD km_status km__viz_check_text(const char *text, const char *what, km_error *err);
KM_NODISCARD km_status km__viz_add(km_viz_text *out, const char *bytes, size_t n, km_error *err);
KM_NODISCARD km_status km__viz_adds(km_viz_text *out, const char *text, km_error *err);
/* A number with two decimals, whatever the locale. */
KM_NODISCARD km_status km__viz_add_number(km_viz_text *out, double value, km_error *err);
/* Text as XML character data or attribute value. */
KM_NODISCARD km_status km__viz_add_xml(km_viz_text *out, const char *text, size_t n, km_error *err);
/* Text as a Graphviz label whose every character stands for itself. */
KM_NODISCARD km_status km__viz_add_label(km_viz_text *out, const char *text, km_align align,
                                         km_error *err);
void km__viz_text_clear(km_viz_text *text);
/* Width of the widest line and number of lines. */
double km__viz_label_width(const char *label, double font_size, bool bold, int64_t *n_lines);
/* The line-th line of a label: its start, its bytes in *n; NULL when there are fewer lines. */
const char *km__viz_line(const char *label, int64_t line, size_t *n);

/* ---- paint.c ---- */

/* The paint whose value in the given theme is hex, or KM_PAINT_NONE. */
km_paint km__viz_paint_of(const char *hex, size_t n, bool dark);
/* The name of a paint, as in class names. */
const char *km__viz_paint_name(km_paint paint);
/* The style sheet: one class a paint for fills and lines, light and dark. */
KM_NODISCARD km_status km__viz_add_style(km_viz_text *out, km_theme theme, km_error *err);

/* ---- scene.c ---- */

/* Copy the graph's nodes and size them by their labels. */
KM_NODISCARD km_status km__viz_scene_init(km_viz_scene *out, const km_graph *graph, km_error *err);
void km__viz_scene_clear(km_viz_scene *scene);
KM_NODISCARD km_status km__viz_scene_add(km_viz_scene *scene, const km_graph_node *node,
                                         km_error *err);
/* Edges of a fixed layout as splines. */
KM_NODISCARD km_status km__viz_scene_route(km_viz_scene *scene, km_error *err);
/* The box around all nodes of the scene. */
km_viz_box km__viz_scene_box(const km_viz_scene *scene);

/* ---- decor.c ---- */

/* Add frames around clusters (fixed layouts), then title, subtitle, legend and footnote. */
KM_NODISCARD km_status km__viz_decorate(km_viz_scene *scene, km_error *err);
/* A frame with its label, from a cluster's box. */
KM_NODISCARD km_status km__viz_add_frame(km_viz_scene *scene, km_viz_box box, const char *label,
                                         km_error *err);

/* ---- layout.c: the only file that calls Graphviz ---- */

/* Positions, frames and splines by the graph's engine. Takes the process-wide lock. */
KM_NODISCARD km_status km__viz_arrange(km_viz_scene *scene, km_error *err);
/* What Graphviz writes for the scene. Takes the process-wide lock. */
KM_NODISCARD km_status km__viz_write(km_viz_text *out, const km_viz_scene *scene, km_format format,
                                     bool dark, double scale, km_error *err);

/* ---- svg.c ---- */

/* Rebuild Graphviz's SVG from the allow-list with the graph's own text. */
KM_NODISCARD km_status km__viz_clean_svg(km_viz_text *out, const km_viz_scene *scene,
                                         const char *svg, size_t n, km_theme theme, km_error *err);

#endif
