/* settings_box.h - the settings of a small model, for tests and fuzz targets. */
#ifndef RP_SETTINGS_BOX_H
#define RP_SETTINGS_BOX_H

#include "config/settings.h"

/* Without patterns, which are the caller's to give. */
static inline rp_model_settings box_plain_settings(int N, int H, int Hk, int h, int f, int V) {
  return (rp_model_settings){.N = N,
                             .d = H * h,
                             .f = f,
                             .V = V,
                             .H = H,
                             .Hk = Hk,
                             .h = h,
                             .act = RP_ACT_GELU,
                             .init = RP_INIT_FIXED,
                             .init_range = 0.02,
                             .cell = RP_CELL_RATPLUS,
                             .apply_re = true,
                             .joint_train = true,
                             .tied = true,
                             .rope = true,
                             .rope_base = 10000,
                             .rope_scale = 1,
                             .max_seq_len = 64};
}

#endif
