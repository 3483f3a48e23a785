/* test_select_goldens_f32.c: the same in float32. */
#define KM_REAL_BITS 32
#define RELATIVE 1e-5
#define ABSOLUTE 1e-6
#include "select_goldens.h"
