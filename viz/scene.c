/* scene.c: from a graph as built to nodes with places and sizes and edges with splines.
 *
 * Everything has its final size before Graphviz sees it, from widths of our own (text.c): what it
 * draws then depends on no font that happens to be installed, and no label is cut.
 */
#include <math.h>
#include <string.h>

#include "viz_private.h"

#define PADDING_X 6.0
#define PADDING_Y 3.5
#define ARROW 7.0 /* length of an arrow head, points */

/* Shapes other than boxes hold less text than their bounding box. */
static double spare(km_shape shape, bool across) {
    switch (shape) {
    case KM_SHAPE_ELLIPSE:
        return across ? 1.25 : 1.45;
    case KM_SHAPE_DIAMOND:
        return 2.0;
    case KM_SHAPE_TRIANGLE:
    case KM_SHAPE_INVTRIANGLE:
        return 2.2;
    case KM_SHAPE_HEXAGON:
        return across ? 1.35 : 1.2;
    default:
        return 1.0;
    }
}

static void size_node(km_graph_node *node) {
    if (node->shape > KM_SHAPE_ROUND) {
        node->align = KM_ALIGN_CENTRE; /* a line at the side would cross the outline */
    }
    if (node->font_size <= 0.0) {
        node->font_size = KM_VIZ_FONT_SIZE;
    }
    if (node->pen <= 0.0) {
        node->pen = 1.0;
    }
    int64_t lines = 0;
    const char *label = node->label == NULL ? "" : node->label;
    double width = km__viz_label_width(label, node->font_size, node->bold, &lines);
    double height = (double)lines * KM_VIZ_LINE_HEIGHT * node->font_size;
    double pad = node->shape == KM_SHAPE_PLAIN ? 0.0 : 1.0;
    if (node->width <= 0.0) {
        node->width = spare(node->shape, true) * width + 2.0 * pad * PADDING_X;
    }
    if (node->height <= 0.0) {
        node->height = spare(node->shape, false) * height + 2.0 * pad * PADDING_Y;
    }
    node->width = fmax(node->width, 0.5);
    node->height = fmax(node->height, 0.5);
}

typedef struct point {
    double x, y;
} point;

static km_status add_point(km_viz_text *out, point p, km_error *err) {
    KM_TRY(km__viz_add_number(out, p.x, err));
    KM_TRY(km__viz_adds(out, ",", err));
    return km__viz_add_number(out, -p.y, err);
}

/* Start and end of an edge, and the unit direction in which it leaves and arrives. */
static void ends(const km_graph_edge *edge, const km_graph_node *a, const km_graph_node *b,
                 point *p, point *q, point *leave) {
    *p = (point){a->x, a->y};
    *q = (point){b->x, b->y};
    if (edge->route == KM_ROUTE_ACROSS) {
        double side = b->x >= a->x ? 1.0 : -1.0;
        p->x += side * 0.5 * a->width;
        q->x -= side * 0.5 * b->width;
        *leave = (point){side, 0.0};
    } else if (edge->route == KM_ROUTE_DOWN) {
        double side = b->y >= a->y ? 1.0 : -1.0;
        p->y += side * 0.5 * a->height;
        q->y -= side * 0.5 * b->height;
        *leave = (point){0.0, side};
    } else {
        double length = fmax(hypot(q->x - p->x, q->y - p->y), 1e-6);
        *leave = (point){(q->x - p->x) / length, (q->y - p->y) / length};
    }
}

/* One Bézier segment whose handles reach half of the way, so that both ends leave straight. */
static km_status add_spline(km_viz_text *out, const km_graph_edge *edge, const km_graph_node *a,
                            const km_graph_node *b, km_error *err) {
    point p, q, leave;
    ends(edge, a, b, &p, &q, &leave);
    point tip = q;
    if (edge->arrow) {
        q = (point){q.x - ARROW * leave.x, q.y - ARROW * leave.y};
        KM_TRY(km__viz_adds(out, "e,", err));
        KM_TRY(add_point(out, tip, err));
        KM_TRY(km__viz_adds(out, " ", err));
    }
    double reach = edge->route == KM_ROUTE_LINE ? hypot(q.x - p.x, q.y - p.y) / 3.0
                   : leave.x != 0.0             ? 0.5 * fabs(q.x - p.x)
                                                : 0.5 * fabs(q.y - p.y);
    const point path[4] = {p,
                           {p.x + reach * leave.x, p.y + reach * leave.y},
                           {q.x - reach * leave.x, q.y - reach * leave.y},
                           q};
    for (int i = 0; i < 4; i++) {
        KM_TRY(add_point(out, path[i], err));
        KM_TRY(km__viz_adds(out, i < 3 ? " " : "", err));
    }
    return KM_OK;
}

km_status km__viz_scene_add(km_viz_scene *scene, const km_graph_node *node, km_error *err) {
    if (scene->n_nodes == scene->cap_nodes) {
        int64_t capacity = 2 * scene->cap_nodes + 16;
        void *nodes = scene->nodes;
        KM_TRY(km_realloc(&nodes, scene->ctx, (size_t)capacity * sizeof *node, err));
        scene->nodes = nodes;
        scene->cap_nodes = capacity;
    }
    scene->nodes[scene->n_nodes] = *node;
    size_node(&scene->nodes[scene->n_nodes++]);
    return KM_OK;
}

km_status km__viz_scene_init(km_viz_scene *out, const km_graph *graph, km_error *err) {
    *out = (km_viz_scene){.ctx = graph->ctx, .graph = graph};
    km_status status = KM_OK;
    KM_GO(km_arena_new(&out->strings, graph->ctx, err));
    KM_GO(km_alloc_array((void **)&out->splines, graph->ctx, graph->n_edges, sizeof *out->splines,
                         err));
    for (int64_t i = 0; i < graph->n_nodes; i++) {
        KM_GO(km__viz_scene_add(out, &graph->nodes[i], err));
    }
done:
    if (status != KM_OK) {
        km__viz_scene_clear(out);
    }
    return status;
}

void km__viz_scene_clear(km_viz_scene *scene) {
    km_free(scene->ctx, scene->nodes);
    km_free(scene->ctx, scene->splines);
    km_arena_free(scene->strings);
    *scene = (km_viz_scene){.ctx = scene->ctx};
}

km_status km__viz_scene_route(km_viz_scene *scene, km_error *err) {
    km_viz_text spline = {scene->ctx, NULL, 0, 0};
    km_status status = KM_OK;
    for (int64_t i = 0; i < scene->graph->n_edges; i++) {
        const km_graph_edge *edge = &scene->graph->edges[i];
        char *copy = NULL;
        spline.size = 0;
        KM_GO(add_spline(&spline, edge, &scene->nodes[edge->from], &scene->nodes[edge->to], err));
        KM_GO(km_arena_strndup(&copy, scene->strings, spline.bytes, spline.size, err));
        scene->splines[i] = copy;
    }
done:
    km__viz_text_clear(&spline);
    return status;
}

km_viz_box km__viz_scene_box(const km_viz_scene *scene) {
    km_viz_box box = {0.0, 0.0, 0.0, 0.0};
    for (int64_t i = 0; i < scene->n_nodes; i++) {
        const km_graph_node *node = &scene->nodes[i];
        km_viz_box own = {node->x - 0.5 * node->width, node->y - 0.5 * node->height,
                          node->x + 0.5 * node->width, node->y + 0.5 * node->height};
        box.left = i == 0 ? own.left : fmin(box.left, own.left);
        box.top = i == 0 ? own.top : fmin(box.top, own.top);
        box.right = i == 0 ? own.right : fmax(box.right, own.right);
        box.bottom = i == 0 ? own.bottom : fmax(box.bottom, own.bottom);
    }
    return box;
}
