/* test_viz.c: pictures: hostile labels change nothing but themselves, the SVG holds only what the
 * allow-list names, limits are refused with clear errors, drawing from several threads agrees. */
#include <math.h>
#include <pthread.h>

#include "km/viz.h"
#include "km_test.h"
#include "viz_private.h"

/* Graphviz, Pango and fontconfig keep caches for the life of the process and leak a little of
 * their own; memory of km never comes from them. */
KM_API const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
    return "leak:libgvc\nleak:libcgraph\nleak:libgvplugin\nleak:libfontconfig\nleak:libpango\n"
           "leak:libglib\nleak:libcairo\nleak:libltdl\n";
}

static km_ctx *ctx;

static int open_context(void **state) {
    (void)state;
    ctx = km_test_ctx(1);
    return 0;
}

static int close_context(void **state) {
    (void)state;
    km_ctx_free(ctx);
    return 0;
}

static const char *const hostile[] = {
    "<b>\"\\N\"</b>",
    "\"]; x [label=\"",
    "trailing backslash\\",
    "\\",
    "&lt;&amp;&#60;&notanentity;",
    "]]><script>alert(1)</script>",
    "javascript:alert(1)",
    "\" onload=\"alert(1)",
    "<img src=x onerror=alert(1)>",
    "</text></svg><script>",
    "<!-- -->",
    "a\\nb\\lc\\r\\G\\E\\T\\H\\L",
    "two\nlines",
    "\n\nlate\n\n",
    "  two  blanks  ",
    "\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d \xd8\xb3\xd9\x84\xd8\xa7\xd9\x85",
    "\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x94\xac \xe2\x85\xa7 \xc2\xbd",
    "{a|b}|<p>",
    "n0:n",
    "%s%n%d",
    "",
};
enum { N_HOSTILE = sizeof hostile / sizeof hostile[0] };

static km_graph *make_graph(km_layout layout, const char *first) {
    km_graph *graph = NULL;
    km_graph_text text = {hostile[0], hostile[5], hostile[9], hostile[6]};
    assert_int_equal(km_graph_new(&graph, ctx, layout, &text, NULL), KM_OK);
    assert_int_equal(km_graph_add_cluster(NULL, graph, hostile[3], NULL), KM_OK);
    for (int i = 0; i < N_HOSTILE; i++) {
        km_graph_node node = KM_GRAPH_NODE_INIT;
        node.label = i == 0 && first != NULL ? first : hostile[i];
        node.shape = (km_shape)(i % KM_SHAPE_COUNT);
        node.align = (km_align)(i % KM_ALIGN_COUNT);
        node.fill = (km_paint)(i % KM_PAINT_COUNT);
        node.y = 60.0 * i;
        node.cluster = i < 3 ? 0 : -1;
        assert_int_equal(km_graph_add_node(NULL, graph, &node, NULL), KM_OK);
    }
    for (int i = 1; i < N_HOSTILE; i++) {
        km_graph_edge edge = KM_GRAPH_EDGE_INIT;
        edge.from = i - 1;
        edge.to = i;
        edge.label = hostile[i];
        edge.title = hostile[i];
        edge.route = (km_route)(i % KM_ROUTE_COUNT);
        edge.arrow = i % 2 == 0;
        assert_int_equal(km_graph_add_edge(NULL, graph, &edge, NULL), KM_OK);
    }
    km_graph_legend entry = {hostile[1], KM_SHAPE_BOX, KM_PAINT_BLUE,   KM_PAINT_BLUE,
                             0.0,        0.0,          KM_STROKE_DASHED};
    assert_int_equal(km_graph_add_legend(graph, &entry, NULL), KM_OK);
    return graph;
}

static km_picture draw(const km_graph *graph, km_format format, km_theme theme) {
    km_picture picture;
    km_error err = KM_ERROR_INIT;
    km_status status = km_graph_render(&picture, graph, format, theme, 1.0, &err);
    if (status != KM_OK) {
        fail_msg("%s: %s", km_status_name(status), err.message);
    }
    return picture;
}

static int count(const char *text, const char *word) {
    int n = 0;
    for (const char *p = strstr(text, word); p != NULL; p = strstr(p + 1, word)) {
        n++;
    }
    return n;
}

/* Every tag of the document is one we write, and no attribute is one that runs anything. */
static void check_allowed(const char *svg) {
    static const char *const known[] = {"svg",   "/svg",     "title",   "/title",  "desc", "/desc",
                                        "style", "/style",   "g",       "/g",      "path", "text",
                                        "/text", "polyline", "ellipse", "polygon", NULL};
    for (const char *p = strchr(svg, '<'); p != NULL; p = strchr(p + 1, '<')) {
        size_t n = strcspn(p + 1, " >");
        bool found = false;
        for (int i = 0; known[i] != NULL; i++) {
            found = found || (strlen(known[i]) == n && memcmp(p + 1, known[i], n) == 0);
        }
        if (!found) {
            fail_msg("unexpected tag %.20s", p);
        }
        const char *end = strchr(p, '>');
        assert_non_null(end);
        for (const char *q = p; q < end; q++) {
            assert_false(memcmp(q, " on", 3) == 0 || memcmp(q, "href", 4) == 0 ||
                         memcmp(q, "url(", 4) == 0);
        }
    }
}

static void hostile_labels_stay_text(void **state) {
    (void)state;
    for (int layout = 0; layout < KM_LAYOUT_COUNT; layout++) {
        km_graph *graph = make_graph((km_layout)layout, NULL);
        km_picture picture = draw(graph, KM_FORMAT_SVG, KM_THEME_AUTO);
        check_allowed(picture.bytes);
        assert_int_equal(count(picture.bytes, "class=\"node\""), N_HOSTILE);
        assert_int_equal(count(picture.bytes, "class=\"edge\""), N_HOSTILE - 1);
        assert_int_equal(count(picture.bytes, "<svg "), 1);
        for (int i = 0; i < N_HOSTILE; i++) {
            km_viz_text xml = {ctx, NULL, 0, 0};
            size_t n = 0;
            const char *line = km__viz_line(hostile[i], 0, &n);
            assert_int_equal(km__viz_adds(&xml, ">", NULL), KM_OK);
            assert_int_equal(km__viz_add_xml(&xml, line, n, NULL), KM_OK);
            assert_int_equal(km__viz_adds(&xml, n == 0 ? "" : "</text>", NULL), KM_OK);
            assert_non_null(strstr(picture.bytes, xml.bytes));
            km__viz_text_clear(&xml);
        }
        km_picture_clear(&picture);
        km_graph_free(graph);
    }
}

static void svg_has_title_description_and_dark_mode(void **state) {
    (void)state;
    km_graph *graph = make_graph(KM_LAYOUT_DOWN, NULL);
    km_picture automatic = draw(graph, KM_FORMAT_SVG, KM_THEME_AUTO);
    km_picture light = draw(graph, KM_FORMAT_SVG, KM_THEME_LIGHT);
    km_picture dark = draw(graph, KM_FORMAT_SVG, KM_THEME_DARK);
    assert_non_null(strstr(automatic.bytes, "role=\"img\""));
    assert_non_null(strstr(automatic.bytes, "&lt;b&gt;&quot;\\N&quot;&lt;/b&gt;</title>"));
    assert_non_null(strstr(automatic.bytes, "&lt;/text&gt;&lt;/svg&gt;&lt;script&gt;</desc>"));
    assert_int_equal(count(automatic.bytes, "prefers-color-scheme:dark"), 1);
    assert_int_equal(count(light.bytes, "prefers-color-scheme"), 0);
    assert_int_equal(count(dark.bytes, "prefers-color-scheme"), 0);
    assert_non_null(strstr(light.bytes, "fill=\"#ffffff\""));
    assert_null(strstr(dark.bytes, "fill=\"#ffffff\""));
    assert_null(strstr(automatic.bytes, "<?"));
    assert_null(strstr(automatic.bytes, "<!"));
    assert_null(strstr(automatic.bytes, "raphviz"));
    km_picture_clear(&automatic);
    km_picture_clear(&light);
    km_picture_clear(&dark);
    km_graph_free(graph);
}

static void every_format_is_written(void **state) {
    (void)state;
    static const char *const starts[KM_FORMAT_COUNT] = {"<svg ", "\x89PNG\r\n", "%PDF-",
                                                        "digraph km {"};
    km_graph *graph = make_graph(KM_LAYOUT_RIGHT, NULL);
    for (int format = 0; format < KM_FORMAT_COUNT; format++) {
        km_picture picture = draw(graph, (km_format)format, KM_THEME_AUTO);
        assert_memory_equal(picture.bytes, starts[format], strlen(starts[format]));
        km_picture_clear(&picture);
    }
    km_graph_free(graph);
}

static void the_same_graph_gives_the_same_bytes(void **state) {
    (void)state;
    for (int layout = 0; layout < KM_LAYOUT_COUNT; layout++) {
        km_graph *graph = make_graph((km_layout)layout, NULL);
        km_graph *twin = make_graph((km_layout)layout, NULL);
        km_picture a = draw(graph, KM_FORMAT_SVG, KM_THEME_AUTO);
        km_picture b = draw(twin, KM_FORMAT_SVG, KM_THEME_AUTO);
        assert_int_equal(a.size, b.size);
        assert_memory_equal(a.bytes, b.bytes, a.size);
        km_picture_clear(&a);
        km_picture_clear(&b);
        km_graph_free(graph);
        km_graph_free(twin);
    }
}

static void dot_holds_the_graph_alone(void **state) {
    (void)state;
    km_graph *graph = make_graph(KM_LAYOUT_DOWN, NULL);
    km_picture picture = draw(graph, KM_FORMAT_DOT, KM_THEME_AUTO);
    assert_int_equal(count(picture.bytes, "\tid=n"), N_HOSTILE);
    assert_int_equal(count(picture.bytes, "\tid=e"), N_HOSTILE - 1);
    assert_int_equal(count(picture.bytes, "\tid=d"), 0);
    assert_non_null(strstr(picture.bytes, "label=\"trailing backslash\\\\"));
    assert_int_equal(count(picture.bytes, "label=<"), 0);
    km_picture_clear(&picture);
    km_graph_free(graph);
}

static void bad_text_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"a\x01z",       "tab\there", "\x1b[0m",      "del\x7f",
                                      "\xff\xfe",     "\xc3(",     "\xed\xa0\x80", "\xef\xbf\xbf",
                                      "\xef\xbf\xbe", "\xc0\xaf",  "cr\r"};
    km_graph *graph = make_graph(KM_LAYOUT_FIXED, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        km_error err = KM_ERROR_INIT;
        km_graph_node node = KM_GRAPH_NODE_INIT;
        node.label = bad[i];
        assert_int_equal(km_graph_add_node(NULL, graph, &node, &err), KM_EINVAL);
        assert_memory_equal(err.message, "node label: ", 12);
        km_graph_text text = {bad[i], NULL, NULL, NULL};
        km_graph *other = NULL;
        assert_int_equal(km_graph_new(&other, ctx, KM_LAYOUT_FIXED, &text, NULL), KM_EINVAL);
        assert_null(other);
    }
    assert_int_equal(km_graph_n_nodes(graph), N_HOSTILE);
    km_graph_free(graph);
}

static void long_text_is_refused(void **state) {
    (void)state;
    static char text[KM_GRAPH_MAX_TEXT + 2];
    km_graph *graph = NULL;
    km_graph_node node = KM_GRAPH_NODE_INIT;
    memset(text, 'x', KM_GRAPH_MAX_TEXT);
    node.label = text;
    assert_int_equal(km_graph_new(&graph, ctx, KM_LAYOUT_FIXED, NULL, NULL), KM_OK);
    assert_int_equal(km_graph_add_node(NULL, graph, &node, NULL), KM_OK);
    km_picture picture = draw(graph, KM_FORMAT_SVG, KM_THEME_AUTO);
    assert_non_null(strstr(picture.bytes, text));
    km_picture_clear(&picture);
    text[KM_GRAPH_MAX_TEXT] = 'x';
    assert_int_equal(km_graph_add_node(NULL, graph, &node, NULL), KM_EINVAL);
    km_graph_free(graph);
}

static void bad_numbers_are_refused(void **state) {
    (void)state;
    km_graph *graph = make_graph(KM_LAYOUT_FIXED, NULL);
    km_graph_node node = KM_GRAPH_NODE_INIT;
    node.x = NAN;
    assert_int_equal(km_graph_add_node(NULL, graph, &node, NULL), KM_ERANGE);
    node = (km_graph_node)KM_GRAPH_NODE_INIT;
    node.width = -1.0;
    assert_int_equal(km_graph_add_node(NULL, graph, &node, NULL), KM_ERANGE);
    node.width = 1e9;
    assert_int_equal(km_graph_add_node(NULL, graph, &node, NULL), KM_ERANGE);
    node = (km_graph_node)KM_GRAPH_NODE_INIT;
    node.cluster = 1;
    assert_int_equal(km_graph_add_node(NULL, graph, &node, NULL), KM_EINVAL);
    node = (km_graph_node)KM_GRAPH_NODE_INIT;
    node.fill = KM_PAINT_COUNT;
    assert_int_equal(km_graph_add_node(NULL, graph, &node, NULL), KM_EINVAL);
    km_graph_edge edge = KM_GRAPH_EDGE_INIT;
    edge.to = N_HOSTILE;
    assert_int_equal(km_graph_add_edge(NULL, graph, &edge, NULL), KM_EINVAL);
    edge.to = -1;
    assert_int_equal(km_graph_add_edge(NULL, graph, &edge, NULL), KM_EINVAL);
    km_picture picture;
    assert_int_equal(km_graph_render(&picture, graph, KM_FORMAT_PNG, KM_THEME_AUTO, 99.0, NULL),
                     KM_ERANGE);
    assert_int_equal(km_graph_render(&picture, graph, KM_FORMAT_COUNT, KM_THEME_AUTO, 1.0, NULL),
                     KM_EINVAL);
    km_graph_free(graph);
}

static void large_pictures_are_refused(void **state) {
    (void)state;
    km_graph *graph = NULL;
    km_error err = KM_ERROR_INIT;
    km_picture picture;
    km_graph_node node = KM_GRAPH_NODE_INIT;
    assert_int_equal(km_graph_new(&graph, ctx, KM_LAYOUT_FIXED, NULL, NULL), KM_OK);
    node.x = 19000.0;
    assert_int_equal(km_graph_add_node(NULL, graph, &node, NULL), KM_OK);
    node.x = 0.0;
    for (int i = 1; i < KM_GRAPH_MAX_NODES; i++) {
        assert_int_equal(km_graph_add_node(NULL, graph, &node, NULL), KM_OK);
    }
    assert_int_equal(km_graph_add_node(NULL, graph, &node, &err), KM_EUNSUPPORTED);
    assert_non_null(strstr(err.message, "5000"));
    assert_int_equal(km_graph_render(&picture, graph, KM_FORMAT_PNG, KM_THEME_AUTO, 2.0, NULL),
                     KM_ERANGE);
    km_graph_free(graph);
}

static void an_empty_graph_is_drawn(void **state) {
    (void)state;
    for (int layout = 0; layout < KM_LAYOUT_COUNT; layout++) {
        km_graph *graph = NULL;
        assert_int_equal(km_graph_new(&graph, ctx, (km_layout)layout, NULL, NULL), KM_OK);
        km_picture picture = draw(graph, KM_FORMAT_SVG, KM_THEME_AUTO);
        check_allowed(picture.bytes);
        km_picture_clear(&picture);
        km_graph_free(graph);
    }
}

/* Graphviz's own output may only pass through the list: a document it never writes is refused. */
static void foreign_svg_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "<svg",
        "<svg width=\"1pt\" height=\"1pt\" viewBox=\"0\">",
        "<svg width=\"1pt\" height=\"1pt\" viewBox=\"0\"><script>x</script></svg>",
        "<svg width=\"1pt\" height=\"1pt\" viewBox=\"0\"><image/></svg>",
        "<svg width=\"1pt\" height=\"1pt\" viewBox=\"0\"><a xlink:href=\"x\"></a></svg>",
        "<svg width=\"1pt\" height=\"1pt\" viewBox=\"0\"><text>free</text></svg>",
        "<svg width=\"1pt\" height=\"1pt\" viewBox=\"0\"><path fill=\"url(#x)\"/></svg>",
        "<svg width=\"1pt\" height=\"1pt\" viewBox=\"&quot;\"></svg>",
    };
    km_graph *graph = make_graph(KM_LAYOUT_FIXED, NULL);
    km_viz_scene scene;
    assert_int_equal(km__viz_scene_init(&scene, graph, NULL), KM_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        km_viz_text out = {ctx, NULL, 0, 0};
        assert_int_equal(
            km__viz_clean_svg(&out, &scene, bad[i], strlen(bad[i]), KM_THEME_AUTO, NULL),
            KM_EINTERNAL);
        km__viz_text_clear(&out);
    }
    km_viz_text out = {ctx, NULL, 0, 0};
    const char *tricky = "<svg width=\"1pt\" height=\"1pt\" viewBox=\"0\"><path onclick=\"x()\" "
                         "href=\"y\" style=\"z\" d=\"M0,0\"/></svg>";
    assert_int_equal(km__viz_clean_svg(&out, &scene, tricky, strlen(tricky), KM_THEME_AUTO, NULL),
                     KM_OK);
    check_allowed(out.bytes);
    assert_non_null(strstr(out.bytes, "<path d=\"M0,0\"/>"));
    km__viz_text_clear(&out);
    km__viz_scene_clear(&scene);
    km_graph_free(graph);
}

typedef struct worker {
    const km_graph *graph;
    km_picture picture;
    km_status status;
} worker;

static void *work(void *payload) {
    worker *mine = payload;
    mine->status =
        km_graph_render(&mine->picture, mine->graph, KM_FORMAT_SVG, KM_THEME_AUTO, 1.0, NULL);
    return NULL;
}

static void threads_agree(void **state) {
    (void)state;
    enum { N = 8 };
    km_graph *graph = make_graph(KM_LAYOUT_DOWN, NULL);
    worker workers[N];
    pthread_t threads[N];
    for (int i = 0; i < N; i++) {
        workers[i].graph = graph;
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_int_equal(workers[i].status, KM_OK);
        assert_int_equal(workers[i].picture.size, workers[0].picture.size);
        assert_memory_equal(workers[i].picture.bytes, workers[0].picture.bytes,
                            workers[0].picture.size);
    }
    for (int i = 0; i < N; i++) {
        km_picture_clear(&workers[i].picture);
    }
    km_graph_free(graph);
}

/* ---- allocation failures ---- */

static km_status small_picture(km_ctx *poor, km_layout layout, km_error *err) {
    km_graph *graph = NULL;
    km_picture picture = KM_PICTURE_INIT;
    km_graph_text text = {"title", "subtitle", "", "footnote"};
    km_graph_node node = KM_GRAPH_NODE_INIT;
    km_graph_edge edge = KM_GRAPH_EDGE_INIT;
    km_status status = km_graph_new(&graph, poor, layout, &text, err);
    node.label = "label";
    edge.label = "edge";
    edge.to = 1;
    for (int i = 0; status == KM_OK && i < 2; i++) {
        status = km_graph_add_node(NULL, graph, &node, err);
    }
    status = status == KM_OK ? km_graph_add_edge(NULL, graph, &edge, err) : status;
    if (status == KM_OK) {
        status = km_graph_render(&picture, graph, KM_FORMAT_SVG, KM_THEME_AUTO, 1.0, err);
    }
    km_picture_clear(&picture);
    km_graph_free(graph);
    return status;
}

static km_status small_fixed_picture(km_ctx *poor, km_error *err) {
    return small_picture(poor, KM_LAYOUT_FIXED, err);
}

static km_status small_arranged_picture(km_ctx *poor, km_error *err) {
    return small_picture(poor, KM_LAYOUT_DOWN, err);
}

static void every_failed_allocation_is_reported(void **state) {
    (void)state;
    km_test_every_allocation(small_fixed_picture);
    km_test_every_allocation(small_arranged_picture);
}

static void text_width_bounds_and_names(void **state) {
    (void)state;
    assert_true(km_text_width("", 0, 10.0, false) <= 0.0);
    assert_true(km_text_width("iii", 3, 10.0, false) < km_text_width("WWW", 3, 10.0, false));
    assert_true(km_text_width("abc", 3, 10.0, false) < km_text_width("abc", 3, 10.0, true));
    assert_int_equal(km_paint_from_name("pale-blue"), KM_PAINT_PALE_BLUE);
    assert_int_equal(km_paint_from_name("pink"), -1);
    assert_string_equal(km_paint_hex(KM_PAINT_BLUE, false), "#0072b2");
    assert_string_equal(km_paint_hex(KM_PAINT_PAPER, true), "#14171b");
    assert_string_equal(km_paint_hex(KM_PAINT_NONE, false), "none");
    assert_int_equal(km_shape_from_name("hexagon"), KM_SHAPE_HEXAGON);
    assert_int_equal(km_layout_from_name("radial"), KM_LAYOUT_RADIAL);
    assert_int_equal(km_format_from_name("pdf"), KM_FORMAT_PDF);
    assert_int_equal(km_theme_from_name("dark"), KM_THEME_DARK);
    assert_int_equal(km_align_from_name("right"), KM_ALIGN_RIGHT);
    assert_int_equal(km_stroke_from_name("dotted"), KM_STROKE_DOTTED);
    assert_int_equal(km_route_from_name("down"), KM_ROUTE_DOWN);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_labels_stay_text),
        cmocka_unit_test(svg_has_title_description_and_dark_mode),
        cmocka_unit_test(every_format_is_written),
        cmocka_unit_test(the_same_graph_gives_the_same_bytes),
        cmocka_unit_test(dot_holds_the_graph_alone),
        cmocka_unit_test(bad_text_is_refused),
        cmocka_unit_test(long_text_is_refused),
        cmocka_unit_test(bad_numbers_are_refused),
        cmocka_unit_test(large_pictures_are_refused),
        cmocka_unit_test(an_empty_graph_is_drawn),
        cmocka_unit_test(foreign_svg_is_refused),
        cmocka_unit_test(threads_agree),
        cmocka_unit_test(every_failed_allocation_is_reported),
        cmocka_unit_test(text_width_bounds_and_names),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
