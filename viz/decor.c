/* decor.c: what stands around a graph: frames of clusters, title, subtitle, legend, footnote.
 *
 * They are nodes of the scene like all others, because Graphviz's own graph label knows neither
 * several sizes nor wrapping, and its cluster frames exist only in some engines.
 */
#include <math.h>
#include <string.h>

#include "viz_private.h"

#define MIN_WRAP 380.0 /* points: narrow graphs still get readable lines of text */
#define FRAME_MARGIN 9.0
#define LEGEND_SIZE 9.0
#define LEGEND_GAP 16.0
#define LEGEND_ROW 15.0

typedef struct writer {
    km_viz_scene *scene;
    double left, y, width; /* y: top of what comes next */
} writer;

/* Break lines at blanks, in place, so that none is wider than `width` where a blank allows it. */
static void wrap(char *text, double width, double font_size, bool bold) {
    char *line = text, *blank = NULL;
    for (char *p = text; *p != '\0'; p++) {
        if (*p == '\n') {
            line = p + 1;
            blank = NULL;
        } else if (*p == ' ') {
            if (blank != NULL && km_text_width(line, (size_t)(p - line), font_size, bold) > width) {
                *blank = '\n';
                line = blank + 1;
            }
            blank = p;
        }
    }
    if (blank != NULL && km_text_width(line, strlen(line), font_size, bold) > width) {
        *blank = '\n';
    }
}

static km_status write_text(writer *at, const char *text, double font_size, bool bold,
                            km_paint paint, double gap, km_error *err) {
    if (text == NULL || *text == '\0') {
        return KM_OK;
    }
    char *copy = NULL;
    KM_TRY(km_arena_strndup(&copy, at->scene->strings, text, strlen(text), err));
    wrap(copy, at->width, font_size, bold);
    int64_t lines = 0;
    km_graph_node node = KM_GRAPH_NODE_INIT;
    node.label = copy;
    node.shape = KM_SHAPE_PLAIN;
    node.stroke = KM_PAINT_NONE;
    node.text = paint;
    node.align = KM_ALIGN_LEFT;
    node.font_size = font_size;
    node.bold = bold;
    node.width = km__viz_label_width(copy, font_size, bold, &lines) + 1.0;
    node.height = (double)lines * KM_VIZ_LINE_HEIGHT * font_size;
    node.x = at->left + 0.5 * node.width;
    node.y = at->y + 0.5 * node.height;
    at->y += node.height + gap;
    return km__viz_scene_add(at->scene, &node, err);
}

static double entry_width(const km_graph_legend *entry, double *mark, double *text) {
    *mark = entry->width > 0.0 ? entry->width : 9.0;
    *text = km_text_width(entry->label, strlen(entry->label), LEGEND_SIZE, false) + 1.0;
    return *mark + 5.0 + *text;
}

static km_status write_entry(writer *at, const km_graph_legend *entry, double x, km_error *err) {
    double mark = 0.0, text = 0.0;
    (void)entry_width(entry, &mark, &text);
    km_graph_node node = KM_GRAPH_NODE_INIT;
    node.shape = entry->shape;
    node.fill = entry->fill;
    node.stroke = entry->stroke;
    node.style = entry->style;
    node.title = entry->label;
    node.width = mark;
    node.height = entry->height > 0.0 ? entry->height : 9.0;
    node.x = x + 0.5 * mark;
    node.y = at->y + 0.5 * LEGEND_ROW;
    KM_TRY(km__viz_scene_add(at->scene, &node, err));
    node = (km_graph_node)KM_GRAPH_NODE_INIT;
    node.shape = KM_SHAPE_PLAIN;
    node.stroke = KM_PAINT_NONE;
    node.label = entry->label;
    node.align = KM_ALIGN_LEFT;
    node.font_size = LEGEND_SIZE;
    node.width = text;
    node.x = x + mark + 5.0 + 0.5 * text;
    node.y = at->y + 0.5 * LEGEND_ROW;
    return km__viz_scene_add(at->scene, &node, err);
}

static km_status write_legend(writer *at, km_error *err) {
    const km_graph *graph = at->scene->graph;
    double x = 0.0, mark = 0.0, text = 0.0;
    for (int64_t i = 0; i < graph->n_legend; i++) {
        double width = entry_width(&graph->legend[i], &mark, &text);
        if (x > 0.0 && x + width > at->width) {
            x = 0.0;
            at->y += LEGEND_ROW;
        }
        KM_TRY(write_entry(at, &graph->legend[i], at->left + x, err));
        x += width + LEGEND_GAP;
    }
    at->y += graph->n_legend > 0 ? LEGEND_ROW + 8.0 : 0.0;
    return KM_OK;
}

/* Everything above the graph, written from y = 0 downwards. */
static km_status write_head(writer *at, km_error *err) {
    const km_graph_text *text = &at->scene->graph->text;
    KM_TRY(write_text(at, text->title, 15.0, true, KM_PAINT_INK, 3.0, err));
    KM_TRY(write_text(at, text->subtitle, 10.0, false, KM_PAINT_MUTED, 8.0, err));
    return write_legend(at, err);
}

km_status km__viz_add_frame(km_viz_scene *scene, km_viz_box box, const char *label, km_error *err) {
    km_graph_node node = KM_GRAPH_NODE_INIT;
    node.x = 0.5 * (box.left + box.right);
    node.y = 0.5 * (box.top + box.bottom);
    node.width = box.right - box.left;
    node.height = box.bottom - box.top;
    node.title = label;
    KM_TRY(km__viz_scene_add(scene, &node, err));
    writer at = {scene, box.left + 6.0, box.top + 3.0, fmax(node.width, 40.0)};
    return write_text(&at, label, 9.0, false, KM_PAINT_MUTED, 0.0, err);
}

static km_status frame_cluster(km_viz_scene *scene, int64_t cluster, km_error *err) {
    km_viz_box box = {INFINITY, INFINITY, -INFINITY, -INFINITY};
    for (int64_t i = 0; i < scene->graph->n_nodes; i++) {
        const km_graph_node *node = &scene->nodes[i];
        if (node->cluster == cluster) {
            box.left = fmin(box.left, node->x - 0.5 * node->width);
            box.right = fmax(box.right, node->x + 0.5 * node->width);
            box.top = fmin(box.top, node->y - 0.5 * node->height);
            box.bottom = fmax(box.bottom, node->y + 0.5 * node->height);
        }
    }
    if (box.left > box.right) {
        return KM_OK;
    }
    const char *label = scene->graph->clusters[cluster];
    double room = *label == '\0' ? 0.0 : 14.0;
    box = (km_viz_box){box.left - FRAME_MARGIN, box.top - FRAME_MARGIN - room,
                       box.right + FRAME_MARGIN, box.bottom + FRAME_MARGIN};
    return km__viz_add_frame(scene, box, label, err);
}

km_status km__viz_decorate(km_viz_scene *scene, km_error *err) {
    if (scene->graph->layout == KM_LAYOUT_FIXED) {
        for (int64_t i = 0; i < scene->graph->n_clusters; i++) {
            KM_TRY(frame_cluster(scene, i, err));
        }
    }
    km_viz_box box = km__viz_scene_box(scene);
    int64_t first = scene->n_nodes;
    writer at = {scene, box.left, 0.0, fmax(box.right - box.left, MIN_WRAP)};
    KM_TRY(write_head(&at, err));
    double shift = box.top - at.y - (at.y > 0.0 ? 4.0 : 0.0);
    for (int64_t i = first; i < scene->n_nodes; i++) {
        scene->nodes[i].y += shift;
    }
    at.y = box.bottom + 12.0;
    return write_text(&at, scene->graph->text.footnote, 9.0, false, KM_PAINT_MUTED, 0.0, err);
}
