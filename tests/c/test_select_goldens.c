/* test_select_goldens.c: knowledge selection in float64 against the authors' modules. */
#define KM_REAL_BITS 64
#define RELATIVE 1e-8
#define ABSOLUTE 1e-9
#include "select_goldens.h"
