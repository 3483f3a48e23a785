/* layout.c: the only file that calls Graphviz (cgraph and gvc).
 *
 * Graphs are built by calls, never parsed from text; node names are n0, n1, ... and every label is
 * a plain string whose escapes and entities were escaped. Graphviz keeps global state, so one
 * process-wide lock guards it, across fork too; its messages come to us instead of stderr. An
 * engine only finds places: drawing is always a second pass with every position fixed. */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <graphviz/gvc.h>

#include "viz_private.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static GVC_t *context;    /* guarded by lock; lives as long as the process */
static char message[300]; /* guarded by lock: what Graphviz complained about */

static void take_lock(void) {
    pthread_mutex_lock(&lock);
}

static void give_lock(void) {
    pthread_mutex_unlock(&lock);
}

/* A child made while another thread draws would inherit a lock nobody holds. */
static void watch_fork(void) {
    pthread_atfork(take_lock, give_lock, give_lock);
}

static int collect(char *text) {
    size_t used = strlen(message);
    snprintf(message + used, sizeof message - used, "%s", text);
    for (char *p = message; *p != '\0'; p++) {
        *p = (*p >= ' ' && *p <= '~') ? *p : ' ';
    }
    return 0;
}

static km_status enter(agusererrf *old, km_error *err) {
    pthread_once(&once, watch_fork);
    take_lock();
    message[0] = '\0';
    *old = agseterrf(collect);
    if (context == NULL) {
        context = gvContext();
    }
    if (context == NULL) {
        return KM_SET(err, KM_ENOMEM, "Graphviz could not start: %s", message);
    }
    return KM_OK;
}

static void leave(agusererrf old) {
    agseterrf(old);
    give_lock();
}

/* Give everything back; g may be NULL. */
static void close_graph(Agraph_t *g, bool laid_out, agusererrf old) {
    if (g != NULL) {
        if (laid_out) {
            gvFreeLayout(context, g);
        }
        agclose(g);
    }
    leave(old);
}

static void set(void *object, const char *name, const char *value) {
    agsafeset(object, (char *)name, (char *)value, "");
}

/* A length in inches, as Graphviz wants sizes. */
static km_status set_inches(void *object, const char *name, double points, km_error *err) {
    char text[48];
    int64_t millionths = (int64_t)llround(points / 72.0 * 1e6);
    if (millionths < 0) {
        return KM_SET(err, KM_EINTERNAL, "negative length for %s", name);
    }
    snprintf(text, sizeof text, "%" PRId64 ".%06d", millionths / 1000000,
             (int)(millionths % 1000000));
    set(object, name, text);
    return KM_OK;
}

static km_status set_number(void *object, const char *name, double value, km_viz_text *scratch,
                            km_error *err) {
    scratch->size = 0;
    KM_TRY(km__viz_add_number(scratch, value, err));
    set(object, name, scratch->bytes);
    return KM_OK;
}

static km_status set_label(void *object, const char *label, km_align align, km_viz_text *scratch,
                           km_error *err) {
    scratch->size = 0;
    KM_TRY(km__viz_add_label(scratch, label == NULL ? "" : label, align, err));
    set(object, "label", scratch->bytes);
    return KM_OK;
}

static const char *shape_name(km_shape shape) {
    static const char *const names[KM_SHAPE_COUNT] = {
        "plaintext", "box", "box", "ellipse", "diamond", "triangle", "invtriangle", "hexagon"};
    return names[shape];
}

static const char *color(km_paint paint, bool dark) {
    return paint == KM_PAINT_NONE ? "transparent" : km_paint_hex(paint, dark);
}

static void set_style(void *object, bool filled, bool rounded, km_stroke style) {
    static const char *const strokes[KM_STROKE_COUNT] = {"solid", "dashed", "dotted"};
    char text[32];
    snprintf(text, sizeof text, "%s%s%s", filled ? "filled," : "", rounded ? "rounded," : "",
             strokes[style]);
    set(object, "style", text);
}

static km_status set_place(void *object, const km_graph_node *node, km_viz_text *scratch,
                           km_error *err) {
    scratch->size = 0;
    KM_TRY(km__viz_add_number(scratch, node->x, err));
    KM_TRY(km__viz_adds(scratch, ",", err));
    KM_TRY(km__viz_add_number(scratch, -node->y, err));
    set(object, "pos", scratch->bytes);
    return KM_OK;
}

static km_status add_node(Agnode_t **out, Agraph_t *g, const char *name, const km_graph_node *node,
                          bool dark, km_viz_text *scratch, km_error *err) {
    Agnode_t *n = agnode(g, (char *)name, 1);
    if (n == NULL) {
        return KM_SET(err, KM_ENOMEM, "Graphviz could not add a node");
    }
    *out = n;
    set(n, "id", name);
    set(n, "shape", shape_name(node->shape));
    set(n, "fixedsize", "true");
    set(n, "margin", node->shape == KM_SHAPE_PLAIN ? "0,0" : "0.07,0");
    set(n, "fontname", node->bold ? "DejaVu Sans Bold" : "DejaVu Sans");
    set(n, "fontcolor", color(node->text, dark));
    set(n, "color", color(node->stroke, dark));
    set(n, "fillcolor", color(node->fill, dark));
    set(n, "peripheries", node->shape == KM_SHAPE_PLAIN ? "0" : "1");
    set_style(n, node->fill != KM_PAINT_NONE, node->shape == KM_SHAPE_ROUND, node->style);
    KM_TRY(set_inches(n, "width", node->width, err));
    KM_TRY(set_inches(n, "height", node->height, err));
    KM_TRY(set_number(n, "fontsize", node->font_size, scratch, err));
    KM_TRY(set_number(n, "penwidth", node->pen, scratch, err));
    return set_label(n, node->label, node->align, scratch, err);
}

static km_status add_edge(Agedge_t **out, Agraph_t *g, Agnode_t *a, Agnode_t *b, int64_t number,
                          const km_graph_edge *edge, bool dark, km_viz_text *scratch,
                          km_error *err) {
    char name[32];
    snprintf(name, sizeof name, "e%" PRId64, number);
    Agedge_t *e = agedge(g, a, b, name, 1);
    if (e == NULL) {
        return KM_SET(err, KM_ENOMEM, "Graphviz could not add an edge");
    }
    *out = e;
    set(e, "id", name);
    set(e, "color", color(edge->paint, dark));
    set(e, "arrowhead", edge->arrow ? "normal" : "none");
    set(e, "arrowsize", "0.7");
    set_style(e, false, false, edge->style);
    KM_TRY(set_number(e, "weight", edge->weight > 0.0 ? edge->weight : 1.0, scratch, err));
    return set_number(e, "penwidth", edge->width > 0.0 ? edge->width : 1.0, scratch, err);
}

static void set_graph(Agraph_t *g, const km_graph *graph, bool dark) {
    set(g, "charset", "UTF-8");
    set(g, "bgcolor", color(KM_PAINT_PAPER, dark));
    set(g, "outputorder", "edgesfirst");
    set(g, "rankdir", graph->layout == KM_LAYOUT_RIGHT ? "LR" : "TB");
    set(g, "nodesep", "0.18");
    set(g, "ranksep", graph->layout == KM_LAYOUT_RADIAL ? "1.2" : "0.5");
    set(g, "overlap", "scalexy"); /* prism, the default, draws from rand() */
    set(g, "splines", "true");
    set(g, "root", "n0");
}

static Agraph_t *open_graph(const km_graph *graph, bool dark, km_error *err) {
    Agraph_t *g = agopen("km", Agdirected, NULL);
    if (g == NULL) {
        (void)KM_SET(err, KM_ENOMEM, "Graphviz could not make a graph");
        return NULL;
    }
    set_graph(g, graph, dark);
    return g;
}

/* ---- finding places ---- */

static km_status add_clusters(Agraph_t *g, const km_graph *graph, Agnode_t **nodes,
                              Agraph_t **clusters, km_viz_text *scratch, km_error *err) {
    for (int64_t i = 0; i < graph->n_clusters; i++) {
        char name[32];
        snprintf(name, sizeof name, "cluster%" PRId64, i);
        clusters[i] = agsubg(g, name, 1);
        if (clusters[i] == NULL) {
            return KM_SET(err, KM_ENOMEM, "Graphviz could not add a cluster");
        }
        set(clusters[i], "fontsize", "9.00");
        set(clusters[i], "fontname", "DejaVu Sans");
        KM_TRY(set_label(clusters[i], graph->clusters[i], KM_ALIGN_LEFT, scratch, err));
    }
    for (int64_t i = 0; i < graph->n_nodes; i++) {
        if (graph->nodes[i].cluster >= 0) {
            agsubnode(clusters[graph->nodes[i].cluster], nodes[i], 1);
        }
    }
    return KM_OK;
}

/* Nodes and edges of the graph itself; positions and splines where `placed`. */
static km_status fill_graph(Agraph_t *g, const km_viz_scene *scene, bool placed, bool dark,
                            Agnode_t **nodes, Agedge_t **edges, km_viz_text *scratch,
                            km_error *err) {
    const km_graph *graph = scene->graph;
    for (int64_t i = 0; i < (placed ? scene->n_nodes : graph->n_nodes); i++) {
        char name[32];
        bool own = i < graph->n_nodes;
        snprintf(name, sizeof name, "%s%" PRId64, own ? "n" : "d", own ? i : i - graph->n_nodes);
        KM_TRY(add_node(&nodes[i], g, name, &scene->nodes[i], dark, scratch, err));
        if (placed) {
            KM_TRY(set_place(nodes[i], &scene->nodes[i], scratch, err));
        }
    }
    for (int64_t i = 0; i < graph->n_edges; i++) {
        const km_graph_edge *edge = &graph->edges[i];
        KM_TRY(add_edge(&edges[i], g, nodes[edge->from], nodes[edge->to], i, edge, dark, scratch,
                        err));
        if (placed && scene->splines[i] != NULL) {
            set(edges[i], "pos", scene->splines[i]);
        }
        if ((!placed || scene->bare) && edge->label != NULL) {
            set(edges[i], "fontsize", "8.00");
            set(edges[i], "fontname", "DejaVu Sans");
            KM_TRY(set_label(edges[i], edge->label, KM_ALIGN_CENTRE, scratch, err));
        }
    }
    return KM_OK;
}

static km_status take_edge(km_viz_scene *scene, Agedge_t *e, int64_t number, km_error *err) {
    const char *spline = agget(e, "pos");
    if (spline == NULL || *spline == '\0') {
        return KM_SET(err, KM_EINTERNAL, "Graphviz left edge %" PRId64 " without a path", number);
    }
    char *copy = NULL;
    KM_TRY(km_arena_strndup(&copy, scene->strings, spline, strlen(spline), err));
    scene->splines[number] = copy;
    const textlabel_t *label = ED_label(e);
    if (label == NULL || !label->set) {
        return KM_OK;
    }
    km_graph_node node = KM_GRAPH_NODE_INIT;
    node.shape = KM_SHAPE_PLAIN;
    node.stroke = KM_PAINT_NONE;
    node.text = KM_PAINT_MUTED;
    node.font_size = 8.0;
    node.label = scene->graph->edges[number].label;
    node.x = label->pos.x;
    node.y = -label->pos.y;
    return km__viz_scene_add(scene, &node, err);
}

/* Copy what the engine found into the scene. */
static km_status take_places(km_viz_scene *scene, Agraph_t *g, Agnode_t **nodes, Agedge_t **edges,
                             Agraph_t **clusters, km_error *err) {
    const km_graph *graph = scene->graph;
    attach_attrs(g);
    for (int64_t i = 0; i < graph->n_nodes; i++) {
        scene->nodes[i].x = ND_coord(nodes[i]).x;
        scene->nodes[i].y = -ND_coord(nodes[i]).y;
    }
    bool framed = graph->layout == KM_LAYOUT_DOWN || graph->layout == KM_LAYOUT_RIGHT;
    for (int64_t i = 0; framed && i < graph->n_clusters; i++) {
        boxf box = GD_bb(clusters[i]);
        if (agnnodes(clusters[i]) > 0) {
            KM_TRY(km__viz_add_frame(scene, (km_viz_box){box.LL.x, -box.UR.y, box.UR.x, -box.LL.y},
                                     graph->clusters[i], err));
        }
    }
    for (int64_t i = 0; i < graph->n_edges; i++) {
        KM_TRY(take_edge(scene, edges[i], i, err));
    }
    return KM_OK;
}

static const char *engine(km_layout layout) {
    static const char *const names[KM_LAYOUT_COUNT] = {"nop2", "dot", "dot", "neato", "twopi"};
    return names[layout];
}

km_status km__viz_arrange(km_viz_scene *scene, km_error *err) {
    const km_graph *graph = scene->graph;
    km_viz_text scratch = {scene->ctx, NULL, 0, 0};
    Agnode_t **nodes = NULL;
    Agedge_t **edges = NULL;
    Agraph_t **clusters = NULL, *g = NULL;
    agusererrf old = NULL;
    bool laid_out = false;
    km_status status = enter(&old, err);
    if (status != KM_OK) {
        goto done;
    }
    KM_GO(km_alloc_array((void **)&nodes, scene->ctx, graph->n_nodes, sizeof *nodes, err));
    KM_GO(km_alloc_array((void **)&edges, scene->ctx, graph->n_edges, sizeof *edges, err));
    KM_GO(km_alloc_array((void **)&clusters, scene->ctx, graph->n_clusters, sizeof *clusters, err));
    g = open_graph(graph, false, err);
    if (g == NULL) {
        KM_FAIL(err, KM_ENOMEM, "no graph");
    }
    KM_GO(fill_graph(g, scene, false, false, nodes, edges, &scratch, err));
    KM_GO(add_clusters(g, graph, nodes, clusters, &scratch, err));
    laid_out = gvLayout(context, g, engine(graph->layout)) == 0;
    if (!laid_out) {
        KM_FAIL(err, KM_EINTERNAL, "Graphviz's %s failed: %s", engine(graph->layout), message);
    }
    KM_GO(take_places(scene, g, nodes, edges, clusters, err));
done:
    close_graph(g, laid_out, old);
    km_free(scene->ctx, nodes);
    km_free(scene->ctx, edges);
    km_free(scene->ctx, clusters);
    km__viz_text_clear(&scratch);
    return status;
}

/* ---- drawing ---- */

static km_status set_resolution(Agraph_t *g, const km_viz_scene *scene, km_format format,
                                double scale, km_viz_text *scratch, km_error *err) {
    KM_TRY(set_inches(g, "pad", KM_VIZ_PAD, err));
    if (format != KM_FORMAT_PNG) {
        return KM_OK;
    }
    km_viz_box box = km__viz_scene_box(scene);
    double side = fmax(box.right - box.left, box.bottom - box.top) + 2.0 * KM_VIZ_PAD;
    if (side * scale > 30000.0) {
        return KM_SET(err, KM_ERANGE,
                      "the PNG would be %.0f pixels long, at most 30,000; use a smaller scale, SVG "
                      "or PDF",
                      side * scale);
    }
    return set_number(g, "dpi", 72.0 * scale, scratch, err);
}

/* The writers we want by name: other plugins must not change what a format means. */
static const char *writer_name(km_format format) {
    static const char *const names[KM_FORMAT_COUNT] = {"svg:svg:core", "png:cairo:cairo",
                                                       "pdf:cairo:cairo", "dot:dot:core"};
    return names[format];
}

static km_status render(km_viz_text *out, Agraph_t *g, km_format format, km_error *err) {
    char *bytes = NULL;
    unsigned n = 0;
    if (gvRenderData(context, g, writer_name(format), &bytes, &n) != 0 || bytes == NULL) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "Graphviz could not write %s (is its plug-in installed? on Debian: apt-get "
                      "install libgvc6): %s",
                      writer_name(format), message);
    }
    km_status status = km__viz_add(out, bytes, n, err);
    gvFreeRenderData(bytes);
    return status;
}

km_status km__viz_write(km_viz_text *out, const km_viz_scene *scene, km_format format, bool dark,
                        double scale, km_error *err) {
    km_viz_text scratch = {scene->ctx, NULL, 0, 0};
    Agnode_t **nodes = NULL;
    Agedge_t **edges = NULL;
    Agraph_t *g = NULL;
    agusererrf old = NULL;
    bool laid_out = false;
    km_status status = enter(&old, err);
    if (status != KM_OK) {
        goto done;
    }
    KM_GO(km_alloc_array((void **)&nodes, scene->ctx, scene->n_nodes, sizeof *nodes, err));
    KM_GO(km_alloc_array((void **)&edges, scene->ctx, scene->graph->n_edges, sizeof *edges, err));
    g = open_graph(scene->graph, dark, err);
    if (g == NULL) {
        KM_FAIL(err, KM_ENOMEM, "no graph");
    }
    KM_GO(fill_graph(g, scene, true, dark, nodes, edges, &scratch, err));
    KM_GO(set_resolution(g, scene, format, scale, &scratch, err));
    laid_out = gvLayout(context, g, "nop2") == 0;
    if (!laid_out) {
        KM_FAIL(err, KM_EINTERNAL, "Graphviz could not place the nodes: %s", message);
    }
    KM_GO(render(out, g, format, err));
done:
    close_graph(g, laid_out, old);
    km_free(scene->ctx, nodes);
    km_free(scene->ctx, edges);
    km__viz_text_clear(&scratch);
    return status;
}
