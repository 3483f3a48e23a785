/* render.c: from a graph to the bytes of a picture.
 *
 * Three steps: the graph becomes a scene of boxes with places (scene.c, decor.c, with an engine's
 * help in layout.c), Graphviz writes the scene, and SVG is cleaned (svg.c). The other formats hold
 * no markup a reader would run.
 */
#include <string.h>

#include "viz_private.h"

static km_status build_scene(km_viz_scene *scene, const km_graph *graph, km_format format,
                             km_error *err) {
    KM_TRY(km__viz_scene_init(scene, graph, err));
    km_status status = KM_OK;
    if (graph->layout == KM_LAYOUT_FIXED) {
        KM_GO(km__viz_scene_route(scene, err));
    } else {
        KM_GO(km__viz_arrange(scene, err));
    }
    if (format == KM_FORMAT_DOT) {
        scene->n_nodes = graph->n_nodes;
        scene->bare = true;
    } else {
        KM_GO(km__viz_decorate(scene, err));
    }
done:
    if (status != KM_OK) {
        km__viz_scene_clear(scene);
    }
    return status;
}

km_status km_graph_render(km_picture *out, const km_graph *graph, km_format format, km_theme theme,
                          double scale, km_error *err) {
    km_viz_scene scene;
    km_viz_text raw = {graph->ctx, NULL, 0, 0}, clean = {graph->ctx, NULL, 0, 0};
    *out = (km_picture)KM_PICTURE_INIT;
    if ((int)format < 0 || format >= KM_FORMAT_COUNT || (int)theme < 0 || theme >= KM_THEME_COUNT) {
        return KM_SET(err, KM_EINVAL, "unknown picture format or theme");
    }
    if (!(scale >= 0.1 && scale <= 8.0)) {
        return KM_SET(err, KM_ERANGE, "scale %g is outside 0.1 to 8", scale);
    }
    KM_TRY(build_scene(&scene, graph, format, err));
    km_status status = KM_OK;
    KM_GO(km__viz_write(&raw, &scene, format, theme == KM_THEME_DARK, scale, err));
    if (format == KM_FORMAT_SVG) {
        KM_GO(km__viz_clean_svg(&clean, &scene, raw.bytes, raw.size, theme, err));
    }
    km_viz_text *best = format == KM_FORMAT_SVG ? &clean : &raw;
    *out = (km_picture){best->bytes, best->size, graph->ctx};
    best->bytes = NULL;
done:
    km__viz_text_clear(&raw);
    km__viz_text_clear(&clean);
    km__viz_scene_clear(&scene);
    return status;
}

void km_picture_clear(km_picture *picture) {
    if (picture->bytes != NULL) {
        km_free(picture->ctx, picture->bytes);
    }
    *picture = (km_picture)KM_PICTURE_INIT;
}
