/* prune_block.h: prune.c's loops over elements, for one floating type. Included once a type, with
 * REAL (float, double), KEY (a signed integer of the same size) and NAME(x) defined.
 *
 * A key is an integer that rises with the change it stands for: the bits of |change|, or the bits
 * of the change with those of negative numbers turned round. Signed integers of the element's own
 * size are compared as fast as the elements themselves on any processor.
 */

static KEY NAME(key)(REAL change, bool is_signed) {
    const KEY magnitude_bits = (KEY)(((KEY)1 << (8 * sizeof(KEY) - 2)) - 1) * 2 + 1;
    KEY bits;
    change += 0; /* -0.0 becomes 0.0 */
    memcpy(&bits, &change, sizeof bits);
    KEY turned = bits < 0 ? bits ^ magnitude_bits : bits;
    return is_signed ? turned : bits & magnitude_bits;
}

/* Keys of n elements; true when a change is NaN. */
static bool NAME(keys)(KEY *keys, const REAL *values, const REAL *base, int64_t n, bool is_signed) {
    REAL changes[BLOCK];
    KEY nan = 0;
    for (int64_t i = 0; i < n; i++) {
        changes[i] = base != NULL ? values[i] - base[i] : values[i];
        nan |= changes[i] != changes[i];
    }
    if (is_signed) {
        for (int64_t i = 0; i < n; i++) {
            keys[i] = NAME(key)(changes[i], true);
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            keys[i] = NAME(key)(changes[i], false);
        }
    }
    return nan != 0;
}

/* Keys of [at, at + n) of a tensor, n <= BLOCK. */
static bool NAME(take)(KEY *keys, const plan *p, const km_prune_tensor *tensor, int64_t at,
                       int64_t n) {
    const REAL *base = tensor->base;
    return NAME(keys)(keys, (const REAL *)tensor->values + at, base != NULL ? base + at : NULL, n,
                      p->options->key == KM_PRUNE_SIGNED);
}

/* Count keys above a window, and those inside it by bin; false when there is a NaN. Few lie inside,
 * so eight flags at a time are asked whether any of them is set. */
static bool NAME(count)(tally *out, const plan *p, const piece *part, const window *w) {
    const KEY low = (KEY)w->low, high = (KEY)w->high;
    KEY keys[BLOCK];
    uint8_t inside[BLOCK] = {0};
    for (int64_t at = part->begin; at < part->end; at += BLOCK) {
        int64_t n = block_size(part, at);
        if (NAME(take)(keys, p, &p->tensors[part->tensor], at, n)) {
            return false;
        }
        KEY above = 0;
        for (int64_t i = 0; i < n; i++) {
            above += keys[i] > high;
        }
        out->above += above;
        for (int64_t i = 0; i < n; i++) {
            inside[i] = (keys[i] >= low) & (keys[i] <= high);
        }
        for (int64_t i = 0; i < n; i += 8) {
            uint64_t eight;
            memcpy(&eight, inside + i, sizeof eight);
            for (int64_t j = i; eight != 0 && j < i + 8 && j < n; j++) {
                if (inside[j] != 0) {
                    out->bins[((uint64_t)keys[j] - (uint64_t)w->low) >> w->shift]++;
                }
            }
        }
    }
    return true;
}

/* flags[i] = -1 where an element lies above a border, else 0; *seen ties came before. */
static void NAME(mark)(KEY *flags, const KEY *keys, int64_t n, const border *line, int64_t *seen) {
    const KEY key = (KEY)line->key;
    KEY ties = 0;
    if (line->kind != BORDER_INSIDE) {
        for (int64_t i = 0; i < n; i++) {
            flags[i] = line->kind == BORDER_BOTTOM ? -1 : 0;
        }
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        flags[i] = keys[i] > key ? -1 : 0;
        ties |= keys[i] == key;
    }
    for (int64_t i = 0; ties != 0 && i < n; i++) {
        if (keys[i] == key) {
            flags[i] = *seen < line->ties ? -1 : 0;
            (*seen)++;
        }
    }
}

/* Restore or mask what is pruned of a piece; returns how much that is. */
static int64_t NAME(prune)(const plan *p, const group *g, int64_t index) {
    const piece *part = &p->pieces[index];
    const km_prune_tensor *tensor = &p->tensors[part->tensor];
    const KEY inverted = p->options->keep ? -1 : 0;
    KEY keys[BLOCK], low[BLOCK], flags[BLOCK];
    int64_t seen[2] = {p->before[0][index], p->before[1][index]}, total = 0;
    for (int64_t at = part->begin; at < part->end; at += BLOCK) {
        int64_t n = block_size(part, at);
        KEY count = 0;
        (void)NAME(take)(keys, p, tensor, at, n);
        NAME(mark)(flags, keys, n, &g->high, &seen[1]);
        if (g->low.kind != BORDER_TOP) {
            NAME(mark)(low, keys, n, &g->low, &seen[0]);
            for (int64_t i = 0; i < n; i++) {
                flags[i] &= ~low[i];
            }
        }
        for (int64_t i = 0; i < n; i++) {
            flags[i] ^= inverted;
            count += flags[i];
        }
        total -= count;
        if (p->mask != NULL) {
            bool *mask = p->mask + part->flat + (at - part->begin);
            for (int64_t i = 0; i < n; i++) {
                mask[i] = flags[i] == 0;
            }
        } else {
            REAL *to = (REAL *)tensor->values + at;
            const REAL *from = (const REAL *)tensor->base + at;
            for (int64_t i = 0; i < n; i++) {
                REAL kept = to[i], old = from[i]; /* read both: then no branch is needed */
                to[i] = flags[i] != 0 ? old : kept;
            }
        }
    }
    return total;
}

#undef REAL
#undef KEY
#undef NAME
