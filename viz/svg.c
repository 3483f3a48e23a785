/* svg.c: Graphviz's SVG read tag by tag and written again.
 *
 * Only elements and attributes of a short list survive, attribute values may hold only the
 * characters numbers, paths and colours need, and every piece of text is replaced by the graph's
 * own, escaped here: nothing that Graphviz did to a label can reach the page. Colours keep their
 * light value as an attribute and gain a class, which the style sheet turns dark. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "viz_private.h"

typedef struct span {
    const char *text;
    size_t n;
} span;

typedef struct tag {
    span name;
    span attributes;
    bool closing, empty;
} tag;

typedef struct cleaner {
    km_viz_text *out;
    const km_viz_scene *scene;
    const char *at, *end;
    bool dark;
    const char *label, *title; /* of the node or edge the reader is in; NULL: none */
    int64_t line;              /* next line of the label */
} cleaner;

static bool is(span text, const char *word) {
    return strlen(word) == text.n && memcmp(text.text, word, text.n) == 0;
}

static bool is_one_of(span text, const char *const *words) {
    for (; *words != NULL; words++) {
        if (is(text, *words)) {
            return true;
        }
    }
    return false;
}

static const char *find(const char *at, const char *end, const char *word) {
    return memmem(at, (size_t)(end - at), word, strlen(word));
}

/* The next element tag, skipping text, comments, processing instructions and the document type.
 * false at the end of the document or where a tag is not closed. */
static bool next_tag(cleaner *c, tag *out) {
    for (;;) {
        const char *open = memchr(c->at, '<', (size_t)(c->end - c->at));
        if (open == NULL || open + 1 >= c->end) {
            return false;
        }
        bool comment = c->end - open >= 4 && memcmp(open, "<!--", 4) == 0;
        const char *close = find(open, c->end, comment ? "-->" : ">");
        if (close == NULL) {
            return false;
        }
        c->at = close + (comment ? 3 : 1);
        if (open[1] == '!' || open[1] == '?') {
            continue;
        }
        out->closing = open[1] == '/';
        out->empty = close[-1] == '/';
        const char *name = open + (out->closing ? 2 : 1);
        size_t n = 0;
        while (name + n < close && strchr(" \t\r\n/", name[n]) == NULL) {
            n++;
        }
        out->name = (span){name, n};
        out->attributes = (span){name + n, (size_t)(close - name) - n};
        return true;
    }
}

/* Take the next name="value" of *rest; false when there is none. */
static bool next_attribute(span *rest, span *name, span *value) {
    while (rest->n > 0 && strchr(" \t\r\n/", *rest->text) != NULL) {
        rest->text++;
        rest->n--;
    }
    const char *equals = memchr(rest->text, '=', rest->n);
    if (equals == NULL || (size_t)(equals - rest->text) + 2 > rest->n || equals[1] != '"') {
        return false;
    }
    *name = (span){rest->text, (size_t)(equals - rest->text)};
    const char *start = equals + 2, *limit = rest->text + rest->n;
    const char *quote = memchr(start, '"', (size_t)(limit - start));
    if (quote == NULL) {
        return false;
    }
    *value = (span){start, (size_t)(quote - start)};
    *rest = (span){quote + 1, (size_t)(limit - quote - 1)};
    return true;
}

static bool find_attribute(const tag *element, const char *wanted, span *value) {
    span rest = element->attributes, name;
    while (next_attribute(&rest, &name, value)) {
        if (is(name, wanted)) {
            return true;
        }
    }
    return false;
}

static bool is_plain_value(span value) {
    static const char allowed[] = "0123456789.,-+ #()ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                  "abcdefghijklmnopqrstuvwxyz";
    for (size_t i = 0; i < value.n; i++) {
        if (value.text[i] == '\0' || strchr(allowed, value.text[i]) == NULL) {
            return false;
        }
    }
    return find(value.text, value.text + value.n, "url") == NULL;
}

static km_status put_attribute(cleaner *c, const char *name, span value, km_error *err) {
    KM_TRY(km__viz_adds(c->out, " ", err));
    KM_TRY(km__viz_adds(c->out, name, err));
    KM_TRY(km__viz_adds(c->out, "=\"", err));
    KM_TRY(km__viz_add_xml(c->out, value.text, value.n, err));
    return km__viz_adds(c->out, "\"", err);
}

/* fill or stroke: the colour, and its class into `classes`. */
static km_status put_colour(cleaner *c, const char *name, span value, char classes[64],
                            km_error *err) {
    km_paint paint = km__viz_paint_of(value.text, value.n, c->dark);
    if (is(value, "transparent") || is(value, "none")) {
        return put_attribute(c, name, (span){"none", 4}, err);
    }
    if (paint == KM_PAINT_NONE) {
        return KM_SET(err, KM_EINTERNAL, "Graphviz wrote an unknown colour");
    }
    size_t used = strlen(classes);
    snprintf(classes + used, 64 - used, "%s%c-%s", used > 0 ? " " : "", name[0],
             km__viz_paint_name(paint));
    return put_attribute(c, name, value, err);
}

static km_status put_attributes(cleaner *c, const tag *element, km_error *err) {
    static const char *const kept[] = {"d",
                                       "points",
                                       "cx",
                                       "cy",
                                       "rx",
                                       "ry",
                                       "x",
                                       "y",
                                       "stroke-width",
                                       "stroke-dasharray",
                                       "text-anchor",
                                       "font-size",
                                       "transform",
                                       NULL};
    char classes[64] = "";
    span rest = element->attributes, name, value;
    while (next_attribute(&rest, &name, &value)) {
        char word[24];
        snprintf(word, sizeof word, "%.*s", (int)name.n, name.text);
        if (is(name, "fill") || is(name, "stroke")) {
            KM_TRY(put_colour(c, word, value, classes, err));
        } else if (is(name, "font-family") && find(value.text, value.text + value.n, "Bold")) {
            KM_TRY(put_attribute(c, "font-weight", (span){"bold", 4}, err));
        } else if (is_one_of(name, kept) && is_plain_value(value)) {
            KM_TRY(put_attribute(c, word, value, err));
        }
    }
    return classes[0] == '\0' ? KM_OK
                              : put_attribute(c, "class", (span){classes, strlen(classes)}, err);
}

/* Which node, edge or decoration a group belongs to, by the id we gave it: n0, e0, d0. */
static const char *enter_group(cleaner *c, const tag *element) {
    const km_graph *graph = c->scene->graph;
    span id;
    c->label = c->title = NULL;
    c->line = 0;
    if (!find_attribute(element, "id", &id) || id.n < 2 || id.n > 10) {
        return NULL;
    }
    int64_t number = 0;
    for (size_t i = 1; i < id.n; i++) {
        if (id.text[i] < '0' || id.text[i] > '9') {
            return NULL;
        }
        number = 10 * number + (id.text[i] - '0');
    }
    if (id.text[0] == 'e' && number < graph->n_edges) {
        c->title = graph->edges[number].title;
        return "edge";
    }
    bool own = id.text[0] == 'n';
    int64_t index = own ? number : number + graph->n_nodes;
    if ((own || id.text[0] == 'd') && index < (own ? graph->n_nodes : c->scene->n_nodes)) {
        const km_graph_node *node = &c->scene->nodes[index];
        c->label = node->label;
        c->title = node->title != NULL || !own ? node->title : node->label;
        return own ? "node" : "decor";
    }
    return NULL;
}

static km_status put_element(cleaner *c, const char *name, const char *class_name,
                             const tag *element, km_error *err) {
    KM_TRY(km__viz_adds(c->out, "<", err));
    KM_TRY(km__viz_adds(c->out, name, err));
    if (class_name != NULL) {
        KM_TRY(put_attribute(c, "class", (span){class_name, strlen(class_name)}, err));
    }
    return put_attributes(c, element, err);
}

static km_status put_title(cleaner *c, km_error *err) {
    if (c->title == NULL || *c->title == '\0') {
        return KM_OK;
    }
    KM_TRY(km__viz_adds(c->out, "<title>", err));
    KM_TRY(km__viz_add_xml(c->out, c->title, strlen(c->title), err));
    return km__viz_adds(c->out, "</title>\n", err);
}

/* The next line of the label that is not empty: Graphviz leaves room for the others and writes
 * nothing. n = 0 when there is none. */
static span next_line(cleaner *c) {
    span line = {c->label, 0};
    while (line.text != NULL && line.n == 0) {
        line.text = km__viz_line(c->label, c->line++, &line.n);
    }
    return line.text == NULL ? (span){NULL, 0} : line;
}

static km_status put_text(cleaner *c, const tag *element, km_error *err) {
    span line = next_line(c);
    if (line.n == 0) {
        return KM_SET(err, KM_EINTERNAL, "Graphviz wrote more lines than the label has");
    }
    KM_TRY(put_element(c, "text", NULL, element, err));
    KM_TRY(km__viz_adds(c->out, ">", err));
    KM_TRY(km__viz_add_xml(c->out, line.text, line.n, err));
    return km__viz_adds(c->out, "</text>\n", err);
}

static km_status put_tag(cleaner *c, const tag *element, km_error *err) {
    static const char *const shapes[] = {"path", "polygon", "polyline", "ellipse", NULL};
    if (is(element->name, "g")) {
        if (element->closing) {
            if (next_line(c).n > 0) {
                return KM_SET(err, KM_EINTERNAL, "Graphviz wrote fewer lines than the label has");
            }
            c->label = c->title = NULL;
            return km__viz_adds(c->out, "</g>\n", err);
        }
        KM_TRY(put_element(c, "g", enter_group(c, element), element, err));
        return km__viz_adds(c->out, ">\n", err);
    }
    if (element->closing) {
        return KM_OK;
    }
    if (is(element->name, "title")) {
        return put_title(c, err);
    }
    if (is(element->name, "text")) {
        return put_text(c, element, err);
    }
    for (int i = 0; shapes[i] != NULL; i++) {
        if (is(element->name, shapes[i])) {
            KM_TRY(put_element(c, shapes[i], NULL, element, err));
            return km__viz_adds(c->out, "/>\n", err);
        }
    }
    return KM_SET(err, KM_EINTERNAL, "Graphviz wrote an element of an unknown kind");
}

/* Pictures may stand in one page: ids must differ where pictures do (FNV-1a). */
static uint64_t hash(const char *bytes, size_t n) {
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) {
        h = (h ^ (unsigned char)bytes[i]) * 1099511628211u;
    }
    return h;
}

static km_status put_named(cleaner *c, const char *name, const char *id, const char *text,
                           km_error *err) {
    char head[64];
    snprintf(head, sizeof head, "<%s id=\"%s%c\">", name, id, name[0]);
    KM_TRY(km__viz_adds(c->out, head, err));
    KM_TRY(km__viz_add_xml(c->out, text, strlen(text), err));
    snprintf(head, sizeof head, "</%s>\n", name);
    return km__viz_adds(c->out, head, err);
}

static km_status put_root(cleaner *c, const tag *root, uint64_t key, km_theme theme,
                          km_error *err) {
    static const char *const sizes[] = {"width", "height", "viewBox"};
    const km_graph_text *text = &c->scene->graph->text;
    const char *description = text->description == NULL ? "" : text->description;
    char id[32], head[400];
    snprintf(id, sizeof id, "km%016" PRIx64, key);
    snprintf(head, sizeof head,
             "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"km-picture\" role=\"img\" "
             "aria-labelledby=\"%st %sd\" xml:space=\"preserve\" "
             "font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\"",
             id, id);
    KM_TRY(km__viz_adds(c->out, head, err));
    for (int i = 0; i < 3; i++) {
        span value;
        if (!find_attribute(root, sizes[i], &value) || !is_plain_value(value)) {
            return KM_SET(err, KM_EINTERNAL, "Graphviz wrote an SVG without %s", sizes[i]);
        }
        KM_TRY(put_attribute(c, sizes[i], value, err));
    }
    KM_TRY(km__viz_adds(c->out, ">\n", err));
    KM_TRY(put_named(c, "title", id, text->title == NULL ? "" : text->title, err));
    KM_TRY(put_named(c, "desc", id, description, err));
    return km__viz_add_style(c->out, theme, err);
}

km_status km__viz_clean_svg(km_viz_text *out, const km_viz_scene *scene, const char *svg, size_t n,
                            km_theme theme, km_error *err) {
    cleaner c = {out, scene, svg, svg + n, theme == KM_THEME_DARK, NULL, NULL, 0};
    tag element;
    if (!next_tag(&c, &element) || !is(element.name, "svg") || element.closing) {
        return KM_SET(err, KM_EINTERNAL, "Graphviz wrote no SVG");
    }
    KM_TRY(put_root(&c, &element, hash(svg, n), theme, err));
    while (next_tag(&c, &element)) {
        if (is(element.name, "svg")) {
            return element.closing ? km__viz_adds(out, "</svg>\n", err)
                                   : KM_SET(err, KM_EINTERNAL, "Graphviz nested an SVG");
        }
        KM_TRY(put_tag(&c, &element, err));
    }
    return KM_SET(err, KM_EINTERNAL, "Graphviz wrote an SVG without an end");
}
