/* km/km.h: everything libkm offers. The knowledge base and the pictures are separate libraries:
 * km/kb.h (pkg-config km-kb) and km/viz.h (pkg-config km-viz). */
#ifndef KM_KM_H
#define KM_KM_H

#include "km/affine_lens.h"
#include "km/circuit.h"
#include "km/ctx.h"
#include "km/error.h"
#include "km/gradient.h"
#include "km/interpretability.h"
#include "km/memorization.h"
#include "km/model.h"
#include "km/neurons.h"
#include "km/optimizer.h"
#include "km/points.h"
#include "km/priming_scores.h"
#include "km/save.h"
#include "km/score.h"
#include "km/select.h"
#include "km/stats.h"
#include "km/table.h"
#include "km/text.h"
#include "km/trainer.h"
#include "km/training.h"

#endif
