/* tree.c: number the nodes of the taxonomy.
 *
 * The tree is stored with Euler-tour numbers, so "everything below X" is a range. Children come in
 * the order of the numbers they had. */

#include <string.h>

#include "kb_private.h"

enum { MAX_LEVELS = 100 };

typedef struct tree_node {
    int64_t parent, first, next; /* -1: none */
    int64_t depth, enter, leave; /* enter -1: not reached from the root */
} tree_node;

/* All nodes in the order of their numbers; ids[i] is that of node i, index tells i of an id. */
typedef struct tree {
    tree_node *nodes;
    json_t *ids, *index;
    int64_t n, root;
} tree;

static km_status read_ids(tree *t, km_kb *kb, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    KM_GO(km__kb_prepare(&stmt, kb, "SELECT id FROM nodes ORDER BY tree_enter", err));
    for (;; t->n++) {
        KM_GO(km__kb_step(&row, kb, stmt, err));
        if (!row) {
            break;
        }
        const char *id = (const char *)sqlite3_column_text(stmt, 0);
        json_t *text = id == NULL ? NULL : json_string(id);
        if (text == NULL || json_array_append_new(t->ids, text) != 0 ||
            json_object_set_new(t->index, id, json_integer(t->n)) != 0) {
            KM_FAIL(err, KM_EFORMAT, "%s: the id of a node cannot be read", kb->path);
        }
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

static const char *id_of(const tree *t, int64_t i) {
    return json_string_value(json_array_get(t->ids, (size_t)i));
}

static km_status place(tree *t, int64_t i, const char *parent, km_error *err) {
    const json_t *found = parent == NULL ? NULL : json_object_get(t->index, parent);
    if (parent == NULL && t->root >= 0) {
        return KM_SET(err, KM_EINVAL,
                      "'%.80s' and '%.80s' both have no parent: a tree has one root",
                      id_of(t, t->root), id_of(t, i));
    }
    if (parent == NULL) {
        t->root = i;
    } else if (found == NULL) {
        return KM_SET(err, KM_EINVAL, "node '%.80s': there is no node '%.80s'", id_of(t, i),
                      parent);
    }
    t->nodes[i].parent = found == NULL ? -1 : json_integer_value(found);
    return KM_OK;
}

/* Parents, and lists of children in order. */
static km_status read_parents(tree *t, km_kb *kb, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    bool row = false;
    KM_GO(km__kb_prepare(&stmt, kb, "SELECT parent FROM nodes ORDER BY tree_enter", err));
    for (int64_t i = 0; i < t->n; i++) {
        KM_GO(km__kb_step(&row, kb, stmt, err));
        t->nodes[i] = (tree_node){-1, -1, -1, 0, -1, -1};
        KM_GO(place(t, i, row ? (const char *)sqlite3_column_text(stmt, 0) : NULL, err));
    }
    for (int64_t i = t->n - 1; i >= 0; i--) {
        if (t->nodes[i].parent >= 0) {
            tree_node *above = &t->nodes[t->nodes[i].parent];
            t->nodes[i].next = above->first;
            above->first = i;
        }
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

/* A walk around the tree: down to the first child, else on to the next sibling of the nearest. */
static km_status walk(tree *t, km_error *err) {
    int64_t entered = 0;
    for (int64_t at = t->root; at >= 0;) {
        tree_node *node = &t->nodes[at];
        node->enter = entered++;
        node->depth = node->parent < 0 ? 0 : t->nodes[node->parent].depth + 1;
        if (node->depth > MAX_LEVELS) {
            return KM_SET(err, KM_EINVAL, "node '%.80s': more than %d levels below the root",
                          id_of(t, at), MAX_LEVELS);
        }
        if (node->first >= 0) {
            at = node->first;
            continue;
        }
        while (at >= 0 && t->nodes[at].next < 0) {
            t->nodes[at].leave = entered - 1;
            at = t->nodes[at].parent;
        }
        if (at >= 0) {
            t->nodes[at].leave = entered - 1;
            at = t->nodes[at].next;
        }
    }
    for (int64_t i = 0; i < t->n; i++) {
        if (t->nodes[i].enter < 0) {
            return KM_SET(err, KM_EINVAL, "node '%.80s' would lie below itself", id_of(t, i));
        }
    }
    return KM_OK;
}

static km_status store(const tree *t, km_kb *kb, km_error *err) {
    km_status status = KM_OK;
    sqlite3_stmt *stmt = NULL;
    KM_GO(km__kb_exec(kb, "UPDATE nodes SET tree_enter = -1 - tree_enter", err));
    KM_GO(km__kb_prepare(&stmt, kb,
                         "UPDATE nodes SET depth = ?2, tree_enter = ?3, tree_leave = ?4"
                         " WHERE id = ?1",
                         err));
    for (int64_t i = 0; i < t->n; i++) {
        KM_GO(km__kb_bind_text(kb, stmt, 1, id_of(t, i), -1, err));
        KM_GO(km__kb_bind_int(kb, stmt, 2, t->nodes[i].depth, err));
        KM_GO(km__kb_bind_int(kb, stmt, 3, t->nodes[i].enter, err));
        KM_GO(km__kb_bind_int(kb, stmt, 4, t->nodes[i].leave, err));
        KM_GO(km__kb_run(kb, stmt, err));
    }
done:
    sqlite3_finalize(stmt);
    return status;
}

km_status km__kb_number_tree(km_kb *kb, km_error *err) {
    km_status status = KM_OK;
    tree t = {NULL, json_array(), json_object(), 0, -1};
    void *memory = NULL;
    if (t.ids == NULL || t.index == NULL) {
        KM_FAIL(err, KM_ENOMEM, "no memory for the tree");
    }
    KM_GO(read_ids(&t, kb, err));
    KM_GO(km_alloc_array(&memory, kb->ctx, t.n > 0 ? t.n : 1, sizeof(tree_node), err));
    t.nodes = memory;
    KM_GO(read_parents(&t, kb, err));
    KM_GO(walk(&t, err));
    KM_GO(store(&t, kb, err));
done:
    km_free(kb->ctx, memory);
    json_decref(t.ids);
    json_decref(t.index);
    return status;
}
