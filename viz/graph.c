/* graph.c: building a km_graph: copies strings into the graph's arena, checks every field, keeps
 * the caps that bound what Graphviz is asked to do. */
#include <math.h>
#include <string.h>

#include "viz_private.h"

#define MAX_LENGTH 20000.0 /* points */
#define MAX_LEGEND 64
#define MAX_CLUSTERS 1000

static km_status copy_text(const char **out, km_graph *graph, const char *text, const char *what,
                           km_error *err) {
    *out = NULL;
    if (text == NULL) {
        return KM_OK;
    }
    KM_TRY(km__viz_check_text(text, what, err));
    char *copy = NULL;
    KM_TRY(km_arena_strndup(&copy, graph->strings, text, strlen(text), err));
    *out = copy;
    return KM_OK;
}

/* Room for one more element of `size` bytes in *array. */
static km_status grow(void **array, km_ctx *ctx, int64_t n, int64_t *capacity, size_t size,
                      km_error *err) {
    if (n < *capacity) {
        return KM_OK;
    }
    int64_t wanted = *capacity == 0 ? 16 : 2 * *capacity;
    KM_TRY(km_realloc(array, ctx, (size_t)wanted * size, err));
    *capacity = wanted;
    return KM_OK;
}

static km_status check_length(double value, bool may_be_negative, const char *what, km_error *err) {
    if (!isfinite(value) || fabs(value) > MAX_LENGTH || (value < 0.0 && !may_be_negative)) {
        return KM_SET(err, KM_ERANGE, "%s is %g, must be %s %g points", what, value,
                      may_be_negative ? "within" : "between 0 and", MAX_LENGTH);
    }
    return KM_OK;
}

static km_status check_enum(int value, int count, const char *what, km_error *err) {
    if (value < 0 || value >= count) {
        return KM_SET(err, KM_EINVAL, "%s %d is not one of the %d known", what, value, count);
    }
    return KM_OK;
}

static km_status check_node(const km_graph *graph, const km_graph_node *node, km_error *err) {
    KM_TRY(check_enum((int)node->shape, KM_SHAPE_COUNT, "shape", err));
    KM_TRY(check_enum((int)node->fill, KM_PAINT_COUNT, "fill", err));
    KM_TRY(check_enum((int)node->stroke, KM_PAINT_COUNT, "stroke", err));
    KM_TRY(check_enum((int)node->text, KM_PAINT_COUNT, "text colour", err));
    KM_TRY(check_enum((int)node->align, KM_ALIGN_COUNT, "alignment", err));
    KM_TRY(check_enum((int)node->style, KM_STROKE_COUNT, "line style", err));
    KM_TRY(check_length(node->x, true, "x", err));
    KM_TRY(check_length(node->y, true, "y", err));
    KM_TRY(check_length(node->width, false, "width", err));
    KM_TRY(check_length(node->height, false, "height", err));
    KM_TRY(check_length(node->font_size, false, "font size", err));
    KM_TRY(check_length(node->pen, false, "outline width", err));
    if (node->cluster < -1 || node->cluster >= graph->n_clusters) {
        return KM_SET(err, KM_EINVAL, "cluster %lld is not there", (long long)node->cluster);
    }
    return KM_OK;
}

static km_status check_edge(const km_graph *graph, const km_graph_edge *edge, km_error *err) {
    if (edge->from < 0 || edge->from >= graph->n_nodes || edge->to < 0 ||
        edge->to >= graph->n_nodes) {
        return KM_SET(err, KM_EINVAL, "an edge from node %lld to node %lld, but there are %lld",
                      (long long)edge->from, (long long)edge->to, (long long)graph->n_nodes);
    }
    KM_TRY(check_enum((int)edge->paint, KM_PAINT_COUNT, "edge colour", err));
    KM_TRY(check_enum((int)edge->style, KM_STROKE_COUNT, "line style", err));
    KM_TRY(check_enum((int)edge->route, KM_ROUTE_COUNT, "route", err));
    KM_TRY(check_length(edge->width, false, "edge width", err));
    return check_length(edge->weight, false, "edge weight", err);
}

km_status km_graph_new(km_graph **out, km_ctx *ctx, km_layout layout, const km_graph_text *text,
                       km_error *err) {
    km_graph *graph = NULL;
    km_status status = KM_OK;
    *out = NULL;
    KM_TRY(check_enum((int)layout, KM_LAYOUT_COUNT, "layout", err));
    KM_TRY(km_alloc_array((void **)&graph, ctx, 1, sizeof *graph, err));
    graph->ctx = ctx;
    graph->layout = layout;
    KM_GO(km_arena_new(&graph->strings, ctx, err));
    if (text != NULL) {
        km_graph_text *mine = &graph->text;
        KM_GO(copy_text(&mine->title, graph, text->title, "title", err));
        KM_GO(copy_text(&mine->subtitle, graph, text->subtitle, "subtitle", err));
        KM_GO(copy_text(&mine->description, graph, text->description, "description", err));
        KM_GO(copy_text(&mine->footnote, graph, text->footnote, "footnote", err));
    }
    *out = graph;
    graph = NULL;
done:
    km_graph_free(graph);
    return status;
}

void km_graph_free(km_graph *graph) {
    if (graph == NULL) {
        return;
    }
    km_ctx *ctx = graph->ctx;
    km_free(ctx, graph->nodes);
    km_free(ctx, graph->edges);
    km_free(ctx, graph->legend);
    km_free(ctx, graph->clusters);
    km_arena_free(graph->strings);
    km_free(ctx, graph);
}

km_status km_graph_add_node(int64_t *out, km_graph *graph, const km_graph_node *node,
                            km_error *err) {
    if (graph->n_nodes >= KM_GRAPH_MAX_NODES) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "a picture holds at most %d nodes; draw a part of the graph",
                      KM_GRAPH_MAX_NODES);
    }
    KM_TRY(check_node(graph, node, err));
    km_graph_node copy = *node;
    KM_TRY(copy_text(&copy.label, graph, node->label, "node label", err));
    KM_TRY(copy_text(&copy.title, graph, node->title, "node title", err));
    KM_TRY(grow((void **)&graph->nodes, graph->ctx, graph->n_nodes, &graph->cap_nodes, sizeof copy,
                err));
    graph->nodes[graph->n_nodes] = copy;
    if (out != NULL) {
        *out = graph->n_nodes;
    }
    graph->n_nodes++;
    return KM_OK;
}

km_status km_graph_add_edge(int64_t *out, km_graph *graph, const km_graph_edge *edge,
                            km_error *err) {
    if (graph->n_edges >= KM_GRAPH_MAX_EDGES) {
        return KM_SET(err, KM_EUNSUPPORTED,
                      "a picture holds at most %d edges; draw a part of the graph",
                      KM_GRAPH_MAX_EDGES);
    }
    KM_TRY(check_edge(graph, edge, err));
    km_graph_edge copy = *edge;
    KM_TRY(copy_text(&copy.label, graph, edge->label, "edge label", err));
    KM_TRY(copy_text(&copy.title, graph, edge->title, "edge title", err));
    KM_TRY(grow((void **)&graph->edges, graph->ctx, graph->n_edges, &graph->cap_edges, sizeof copy,
                err));
    graph->edges[graph->n_edges] = copy;
    if (out != NULL) {
        *out = graph->n_edges;
    }
    graph->n_edges++;
    return KM_OK;
}

km_status km_graph_add_cluster(int64_t *out, km_graph *graph, const char *label, km_error *err) {
    if (graph->n_clusters >= MAX_CLUSTERS) {
        return KM_SET(err, KM_EUNSUPPORTED, "a picture holds at most %d clusters", MAX_CLUSTERS);
    }
    const char *copy = NULL;
    KM_TRY(copy_text(&copy, graph, label == NULL ? "" : label, "cluster label", err));
    KM_TRY(grow((void **)&graph->clusters, graph->ctx, graph->n_clusters, &graph->cap_clusters,
                sizeof copy, err));
    graph->clusters[graph->n_clusters] = copy;
    if (out != NULL) {
        *out = graph->n_clusters;
    }
    graph->n_clusters++;
    return KM_OK;
}

km_status km_graph_add_legend(km_graph *graph, const km_graph_legend *entry, km_error *err) {
    if (graph->n_legend >= MAX_LEGEND) {
        return KM_SET(err, KM_EUNSUPPORTED, "a legend holds at most %d entries", MAX_LEGEND);
    }
    KM_TRY(check_enum((int)entry->shape, KM_SHAPE_COUNT, "shape", err));
    KM_TRY(check_enum((int)entry->fill, KM_PAINT_COUNT, "fill", err));
    KM_TRY(check_enum((int)entry->stroke, KM_PAINT_COUNT, "stroke", err));
    KM_TRY(check_enum((int)entry->style, KM_STROKE_COUNT, "line style", err));
    KM_TRY(check_length(entry->width, false, "width", err));
    KM_TRY(check_length(entry->height, false, "height", err));
    km_graph_legend copy = *entry;
    KM_TRY(copy_text(&copy.label, graph, entry->label == NULL ? "" : entry->label, "legend label",
                     err));
    KM_TRY(grow((void **)&graph->legend, graph->ctx, graph->n_legend, &graph->cap_legend,
                sizeof copy, err));
    graph->legend[graph->n_legend++] = copy;
    return KM_OK;
}

int64_t km_graph_n_nodes(const km_graph *graph) {
    return graph->n_nodes;
}

int64_t km_graph_n_edges(const km_graph *graph) {
    return graph->n_edges;
}
