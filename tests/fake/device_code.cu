/* device_code.cu - compiled and not run: what kernels will include is device code as well. */
#include "pattern/count.h"
#include "pattern/segs.h"

__global__ void segments(int *out, rp_pat pat, rp_past past) {
  rp_seg s[RP_SEGS_MAX];
  const int t = (int)threadIdx.x, n = rp_segs(s, pat, past, t, t + 64);
  long long sum = rp_pat_keys(pat, t) + rp_pat_pairs(pat, t) + rp_pat_cache(pat, t, past.margin) +
                  rp_pat_blocks(pat, t, past.margin);
  for (int i = 0; i < n; i++) sum += s[i].pos + s[i].slot + s[i].count * s[i].step;
  out[t] = (int)sum;
}
