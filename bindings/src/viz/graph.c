/* graph.c: `_kmviz.Graph`. A graph is only built and drawn while its thread holds the object's own
 * flag, so that a second thread gets BusyError instead of a torn graph. */
#include <stdatomic.h>

#include "state.h"

typedef struct graph_object {
    PyObject_HEAD
    km_graph *graph;
    atomic_flag busy;
} graph_object;

typedef int (*name_index)(const char *name);

static km_viz_state *state_of(PyObject *self) {
    return PyType_GetModuleState(Py_TYPE(self));
}

/* A parameter that names a member of an enumeration. */
static bool arg_name(km_args *in, const char *parameter, name_index find, int *out) {
    const char *name = NULL;
    if (!km_arg_str(in, parameter, &name)) {
        return false;
    }
    int index = name == NULL ? *out : find(name);
    if (index < 0) {
        km_py_raise_format(in->errors, KM_EINVAL, "%s(): %s '%s' is not known", in->signature->name,
                           parameter, name);
        return false;
    }
    *out = index;
    return true;
}

static bool take(PyObject *object) {
    graph_object *self = (graph_object *)object;
    if (atomic_flag_test_and_set(&self->busy)) {
        km_py_raise_format(&state_of(object)->errors, KM_ESTATE,
                           "another thread is using this graph");
        return false;
    }
    return true;
}

static void give(PyObject *object) {
    atomic_flag_clear(&((graph_object *)object)->busy);
}

static bool get_text(km_args *in, int *layout, km_graph_text *text) {
    return arg_name(in, "layout", km_layout_from_name, layout) &&
           km_arg_str(in, "title", &text->title) && km_arg_str(in, "subtitle", &text->subtitle) &&
           km_arg_str(in, "description", &text->description) &&
           km_arg_str(in, "footnote", &text->footnote);
}

static PyObject *graph_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    km_viz_state *state = PyType_GetModuleState(type);
    km_args in;
    km_error err = KM_ERROR_INIT;
    km_graph_text text = {0};
    int layout = KM_LAYOUT_FIXED;
    graph_object *self = NULL;
    if (!km_args_bind_new(&in, &state->errors, KM_SIG_Graph, args, kwargs) ||
        !get_text(&in, &layout, &text)) {
        goto done;
    }
    self = (graph_object *)PyType_GenericAlloc(type, 0);
    if (self == NULL) {
        goto done;
    }
    atomic_flag_clear(&self->busy);
    if (km_graph_new(&self->graph, state->ctx, (km_layout)layout, &text, &err) != KM_OK) {
        km_py_raise(&state->errors, &err);
        Py_CLEAR(self);
    }
done:
    km_args_clear(&in);
    return (PyObject *)self;
}

static void graph_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    km_graph_free(((graph_object *)object)->graph);
    PyObject_Free(object);
    Py_DECREF(type);
}

static bool get_looks(km_args *in, km_graph_node *node) {
    int shape = (int)node->shape, fill = (int)node->fill, stroke = (int)node->stroke,
        text = (int)node->text, align = (int)node->align, line = (int)node->style;
    bool ok = arg_name(in, "shape", km_shape_from_name, &shape) &&
              arg_name(in, "fill", km_paint_from_name, &fill) &&
              arg_name(in, "stroke", km_paint_from_name, &stroke) &&
              arg_name(in, "text", km_paint_from_name, &text) &&
              arg_name(in, "align", km_align_from_name, &align) &&
              arg_name(in, "line", km_stroke_from_name, &line);
    node->shape = (km_shape)shape;
    node->fill = (km_paint)fill;
    node->stroke = (km_paint)stroke;
    node->text = (km_paint)text;
    node->align = (km_align)align;
    node->style = (km_stroke)line;
    return ok;
}

static bool get_node(km_args *in, km_graph_node *node) {
    return km_arg_str(in, "label", &node->label) && km_arg_str(in, "title", &node->title) &&
           get_looks(in, node) && km_arg_double(in, "x", &node->x) &&
           km_arg_double(in, "y", &node->y) && km_arg_double(in, "width", &node->width) &&
           km_arg_double(in, "height", &node->height) &&
           km_arg_double(in, "size", &node->font_size) && km_arg_double(in, "pen", &node->pen) &&
           km_arg_bool(in, "bold", &node->bold) && km_arg_int64(in, "cluster", &node->cluster);
}

/* Give back the graph and turn a status into the number of what was added. */
static PyObject *finish_add(PyObject *object, km_status status, int64_t number,
                            const km_error *err) {
    give(object);
    return status == KM_OK ? PyLong_FromLongLong(number)
                           : km_py_raise(&state_of(object)->errors, err);
}

static PyObject *graph_add_node(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    km_args in;
    km_error err = KM_ERROR_INIT;
    km_graph_node node = KM_GRAPH_NODE_INIT;
    int64_t number = -1;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state_of(object)->errors, KM_SIG_Graph_add_node, args, nargs, kwnames) &&
        get_node(&in, &node) && take(object)) {
        km_status status = km_graph_add_node(&number, ((graph_object *)object)->graph, &node, &err);
        result = finish_add(object, status, number, &err);
    }
    km_args_clear(&in);
    return result;
}

static bool get_edge(km_args *in, km_graph_edge *edge) {
    int paint = (int)edge->paint, style = (int)edge->style, route = (int)edge->route;
    bool ok = km_arg_int64(in, "source", &edge->from) && km_arg_int64(in, "target", &edge->to) &&
              km_arg_str(in, "label", &edge->label) && km_arg_str(in, "title", &edge->title) &&
              arg_name(in, "color", km_paint_from_name, &paint) &&
              arg_name(in, "line", km_stroke_from_name, &style) &&
              arg_name(in, "route", km_route_from_name, &route) &&
              km_arg_double(in, "width", &edge->width) &&
              km_arg_double(in, "weight", &edge->weight) && km_arg_bool(in, "arrow", &edge->arrow);
    edge->paint = (km_paint)paint;
    edge->style = (km_stroke)style;
    edge->route = (km_route)route;
    return ok;
}

static PyObject *graph_add_edge(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                PyObject *kwnames) {
    km_args in;
    km_error err = KM_ERROR_INIT;
    km_graph_edge edge = KM_GRAPH_EDGE_INIT;
    int64_t number = -1;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state_of(object)->errors, KM_SIG_Graph_add_edge, args, nargs, kwnames) &&
        get_edge(&in, &edge) && take(object)) {
        km_status status = km_graph_add_edge(&number, ((graph_object *)object)->graph, &edge, &err);
        result = finish_add(object, status, number, &err);
    }
    km_args_clear(&in);
    return result;
}

static PyObject *graph_add_cluster(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                   PyObject *kwnames) {
    km_args in;
    km_error err = KM_ERROR_INIT;
    const char *label = "";
    int64_t number = -1;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state_of(object)->errors, KM_SIG_Graph_add_cluster, args, nargs,
                     kwnames) &&
        km_arg_str(&in, "label", &label) && take(object)) {
        km_status status =
            km_graph_add_cluster(&number, ((graph_object *)object)->graph, label, &err);
        result = finish_add(object, status, number, &err);
    }
    km_args_clear(&in);
    return result;
}

static bool get_legend(km_args *in, km_graph_legend *entry) {
    int shape = KM_SHAPE_ROUND, fill = KM_PAINT_NONE, stroke = KM_PAINT_LINE, line = 0;
    bool ok = km_arg_str(in, "label", &entry->label) &&
              arg_name(in, "shape", km_shape_from_name, &shape) &&
              arg_name(in, "fill", km_paint_from_name, &fill) &&
              arg_name(in, "stroke", km_paint_from_name, &stroke) &&
              arg_name(in, "line", km_stroke_from_name, &line) &&
              km_arg_double(in, "width", &entry->width) &&
              km_arg_double(in, "height", &entry->height);
    entry->shape = (km_shape)shape;
    entry->fill = (km_paint)fill;
    entry->stroke = (km_paint)stroke;
    entry->style = (km_stroke)line;
    return ok;
}

static PyObject *graph_add_legend(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                                  PyObject *kwnames) {
    km_args in;
    km_error err = KM_ERROR_INIT;
    km_graph_legend entry = {0};
    PyObject *result = NULL;
    if (km_args_bind(&in, &state_of(object)->errors, KM_SIG_Graph_add_legend, args, nargs,
                     kwnames) &&
        get_legend(&in, &entry) && take(object)) {
        km_status status = km_graph_add_legend(((graph_object *)object)->graph, &entry, &err);
        give(object);
        result =
            status == KM_OK ? Py_NewRef(Py_None) : km_py_raise(&state_of(object)->errors, &err);
    }
    km_args_clear(&in);
    return result;
}

static PyObject *draw(PyObject *object, km_format format, km_theme theme, double scale) {
    km_error err = KM_ERROR_INIT;
    km_picture picture = KM_PICTURE_INIT;
    km_status status = KM_OK;
    PyObject *result = NULL;
    Py_BEGIN_ALLOW_THREADS /* drawing takes milliseconds, and may wait for another thread's */
    status = km_graph_render(&picture, ((graph_object *)object)->graph, format, theme, scale, &err);
    Py_END_ALLOW_THREADS
    if (status == KM_OK) {
        result = PyBytes_FromStringAndSize(picture.bytes, (Py_ssize_t)picture.size);
    } else {
        km_py_raise(&state_of(object)->errors, &err);
    }
    km_picture_clear(&picture);
    return result;
}

static PyObject *graph_render(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *kwnames) {
    km_args in;
    int format = KM_FORMAT_SVG, theme = KM_THEME_AUTO;
    double scale = 2.0;
    PyObject *result = NULL;
    if (km_args_bind(&in, &state_of(object)->errors, KM_SIG_Graph_render, args, nargs, kwnames) &&
        arg_name(&in, "format", km_format_from_name, &format) &&
        arg_name(&in, "theme", km_theme_from_name, &theme) && km_arg_double(&in, "scale", &scale) &&
        take(object)) {
        result = draw(object, (km_format)format, (km_theme)theme, scale);
        give(object);
    }
    km_args_clear(&in);
    return result;
}

static PyObject *graph_n_nodes(PyObject *object, void *closure) {
    (void)closure;
    return PyLong_FromLongLong(km_graph_n_nodes(((graph_object *)object)->graph));
}

static PyObject *graph_n_edges(PyObject *object, void *closure) {
    (void)closure;
    return PyLong_FromLongLong(km_graph_n_edges(((graph_object *)object)->graph));
}

static PyObject *graph_repr(PyObject *object) {
    const km_graph *graph = ((graph_object *)object)->graph;
    return PyUnicode_FromFormat("<km graph: %lld nodes, %lld edges>",
                                (long long)km_graph_n_nodes(graph),
                                (long long)km_graph_n_edges(graph));
}

static PyMethodDef graph_methods[] = {
    KM_METHOD("add_node", graph_add_node, KM_DOC_Graph_add_node),
    KM_METHOD("add_edge", graph_add_edge, KM_DOC_Graph_add_edge),
    KM_METHOD("add_cluster", graph_add_cluster, KM_DOC_Graph_add_cluster),
    KM_METHOD("add_legend", graph_add_legend, KM_DOC_Graph_add_legend),
    KM_METHOD("render", graph_render, KM_DOC_Graph_render),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef graph_getset[] = {
    {"n_nodes", graph_n_nodes, NULL, KM_DOC_Graph_n_nodes, NULL},
    {"n_edges", graph_n_edges, NULL, KM_DOC_Graph_n_edges, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot graph_slots[] = {
    {Py_tp_doc, KM_DOC_Graph},
    {Py_tp_new, graph_new},
    {Py_tp_dealloc, graph_dealloc},
    {Py_tp_repr, graph_repr},
    {Py_tp_methods, graph_methods},
    {Py_tp_getset, graph_getset},
    {0, NULL},
};

PyType_Spec km_py_graph_spec = {"km._kmviz.Graph", sizeof(graph_object), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, graph_slots};
