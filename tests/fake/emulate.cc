/* emulate.cc - see emulate.h. */
#include "emulate.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#include "base/dtype.h"
#include "launch.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define SWITCHES 1
#else
#define SWITCHES 0
#endif

emulated_state emulated;

namespace {

enum { STACK = 256 << 10, THREADS = 1024, BARRIERS = 16, GROUPS = 8 };

struct piece {
  void *to;
  const void *from;
  int bytes;
};
struct product {
  float *c;
  int columns;
  bool add;
  const uint32_t *a; /* in registers, or none */
  uint32_t registers[4];
  std::vector<const uint16_t *> at; /* the elements in shared memory: of a, then of b */
  std::vector<uint16_t> was;
};
struct fiber {
  ucontext_t at;
  char *stack;
  bool ended;
  const unsigned *turn; /* waits while *turn is `seen`; NULL: runs */
  unsigned seen;
  unsigned exchanges;
  std::vector<std::vector<piece>> groups; /* of copies; the last is open */
  std::vector<std::vector<product>> products;
};
struct barrier {
  unsigned arrived, need, turn;
};
struct warp {
  unsigned left, arrived, turn;
  unsigned char slot[2][32][64];
};

fiber fibers[THREADS];
barrier barriers[BARRIERS];
warp warps[THREADS / 32];
unsigned threads, left, now;
bool stopped;
ucontext_t scheduler;
fake_kernel kernel;
const void *kernel_args;

[[noreturn]] void end(const char *why) {
  fprintf(stderr, "a kernel of the stand-in, block %u %u %u, thread %u: %s\n", emulated.block.x,
          emulated.block.y, emulated.block.z, now, why);
  abort();
}

#if SWITCHES
void *host_stack_fake; /* AddressSanitizer's, of the scheduler */
const void *host_stack;
size_t host_stack_size;
#endif

void to_scheduler(bool for_good) {
#if SWITCHES
  void *fake = NULL;
  __sanitizer_start_switch_fiber(for_good ? NULL : &fake, host_stack, host_stack_size);
#else
  (void)for_good;
#endif
  swapcontext(&fibers[now].at, &scheduler);
#if SWITCHES
  __sanitizer_finish_switch_fiber(fake, &host_stack, &host_stack_size);
#endif
}

void wait_for(const unsigned *turn, unsigned seen) {
  fibers[now].turn = turn;
  fibers[now].seen = seen;
  to_scheduler(false);
}

void arrive(barrier *b, unsigned need) {
  const unsigned seen = b->turn;
  b->need = need;
  if (++b->arrived >= need) {
    b->arrived = 0;
    b->turn++;
  } else {
    wait_for(&b->turn, seen);
  }
}

void thread_main() {
#if SWITCHES
  __sanitizer_finish_switch_fiber(NULL, &host_stack, &host_stack_size);
#endif
  if (!stopped) kernel(kernel_args);
  fiber *f = &fibers[now];
  warp *w = &warps[now / 32];
  f->ended = true;
  left--;
  w->left--;
  if (barriers[0].arrived && barriers[0].arrived >= left) { /* those that are left wait already */
    barriers[0].arrived = 0;
    barriers[0].turn++;
  }
  if (w->arrived && w->arrived >= w->left) {
    w->arrived = 0;
    w->turn++;
  }
  to_scheduler(true);
}

void resume(unsigned i) {
  now = i;
  emulated.thread = {i, 0, 0};
#if SWITCHES
  __sanitizer_start_switch_fiber(&host_stack_fake, fibers[i].stack, STACK);
#endif
  swapcontext(&scheduler, &fibers[i].at);
#if SWITCHES
  __sanitizer_finish_switch_fiber(host_stack_fake, NULL, NULL);
#endif
}

/* At the beginning of the kernel. */
void ready(fiber *f) {
  f->ended = false;
  f->turn = NULL;
  f->exchanges = 0;
  f->groups.assign(1, {});
  f->products.assign(1, {});
  getcontext(&f->at);
  f->at.uc_stack.ss_sp = f->stack;
  f->at.uc_stack.ss_size = STACK;
  f->at.uc_link = NULL;
  makecontext(&f->at, thread_main, 0);
}

void run_block(bool backwards) {
  left = threads;
  memset(barriers, 0, sizeof barriers);
  memset(warps, 0, sizeof warps);
  for (unsigned i = 0; i < threads; i++) {
    fiber *f = &fibers[i];
    if (!f->stack) {
      void *at = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (at == MAP_FAILED) abort();
      f->stack = (char *)at;
    }
    ready(f);
    warps[i / 32].left++;
  }
  while (left) {
    bool moved = false;
    for (unsigned k = 0; k < threads; k++) {
      const unsigned i = backwards ? threads - 1 - k : k;
      fiber *f = &fibers[i];
      if (f->ended || (f->turn && *f->turn == f->seen)) continue;
      f->turn = NULL;
      moved = true;
      resume(i);
      if (stopped) return;
    }
    if (!moved) end("its block waits for good: a barrier that not all threads come to");
  }
}

}  // namespace

void emulate_threads_are(unsigned n) {
  if (n != threads) end("launched with another number of threads than it was written for");
}

void emulate_stop() {
  stopped = true;
  to_scheduler(false);
}

void emulate_barrier(int id, unsigned need) {
  if (id < 0 || id >= BARRIERS || need % 32 || (id == 0 && need)) end("no such barrier");
  arrive(&barriers[id], need ? need : left);
}

const unsigned char *emulate_exchange(const void *mine, unsigned bytes) {
  warp *w = &warps[now / 32];
  fiber *f = &fibers[now];
  const unsigned side = f->exchanges++ % 2, seen = w->turn;
  if (bytes > 64) end("too much for an exchange");
  memcpy(w->slot[side][now % 32], mine, bytes);
  if (++w->arrived >= w->left) {
    w->arrived = 0;
    w->turn++;
  } else {
    wait_for(&w->turn, seen);
  }
  return w->slot[side][0];
}

uint16_t emulate_bf16(float x) {
  return x == x ? rp_f32_to_bf16(x) : 0x7fff; /* the one NaN of the instruction */
}

void emulate_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2]) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const unsigned char *all = emulate_exchange(mine, sizeof mine);
  const unsigned lane = now % 32;
  for (unsigned i = 0; i < 4; i++) {
    const unsigned row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
    double sum = c[i];
    for (unsigned k = 0; k < 16; k++) {
      uint32_t x[6], y[6];
      memcpy(x, all + 64 * (row % 8 * 4 + k % 8 / 2), sizeof x);
      memcpy(y, all + 64 * (col * 4 + k % 8 / 2), sizeof y);
      const uint32_t p = x[row / 8 + k / 8 * 2], q = y[4 + k / 8];
      const unsigned half = k % 2 * 16;
      sum += (double)rp_bf16_to_f32((uint16_t)(p >> half)) * rp_bf16_to_f32((uint16_t)(q >> half));
    }
    c[i] = (float)sum;
  }
}

void emulate_load_matrix_x4(uint32_t r[4], const void *row, bool trans) {
  if ((uintptr_t)row % 16) end("a matrix's row is not aligned");
  const unsigned char *all = emulate_exchange(&row, sizeof row);
  const unsigned lane = now % 32;
  for (unsigned m = 0; m < 4; m++) {
    uint16_t pair[2];
    for (unsigned i = 0; i < 2; i++) {
      const unsigned x = lane / 4, y = lane % 4 * 2 + i, from = trans ? y : x, col = trans ? x : y;
      const uint16_t *at;
      memcpy(&at, all + 64 * (m * 8 + from), sizeof at);
      pair[i] = at[col];
    }
    r[m] = (uint32_t)pair[1] << 16 | pair[0];
  }
}

void emulate_copy_async(void *to, const void *from, int bytes) {
  if ((uintptr_t)to % 16 || (bytes && (uintptr_t)from % 16)) end("a copy is not aligned");
  memset(to, 0xff, 16);
  fibers[now].groups.back().push_back({to, from, bytes});
}

void emulate_copies_close_group() { fibers[now].groups.push_back({}); }

void emulate_copies_wait(int pending) {
  auto &g = fibers[now].groups;
  while (g.size() > (size_t)pending + 1) {
    for (const piece &p : g.front()) {
      memset(p.to, 0, 16);
      if (p.bytes) memcpy(p.to, p.from, (size_t)p.bytes);
    }
    g.erase(g.begin());
  }
}

/* Element (line, i) of an operand in shared memory, that is swizzled by 128 bytes: i lies along the lines, or
 * `across` the lines do. */
static const uint16_t *mma_at(uint64_t desc, bool across, unsigned line, unsigned i) {
  const unsigned base = (desc & 0x3fff) << 4, leading = (desc >> 16 & 0x3fff) << 4;
  const unsigned stride = (desc >> 32 & 0x3fff) << 4;
  if (desc >> 62 != 1) end("an operand of a product is not swizzled");
  unsigned at = across ? base + line / 64 * leading + i / 8 * stride + i % 8 * 128 + line % 64 * 2
                       : base + line / 8 * stride + line % 8 * 128 + i * 2;
  at ^= (at >> 7 & 7) << 4;
  return (const uint16_t *)((char *)emulated.shared + at);
}

void emulate_mma(float *c, int columns, uint64_t a_at, const uint32_t *a, uint64_t b_at, bool add) {
  product p = {c, columns, add, a, {}, {}, {}};
  const unsigned warp = now / 32 % 4, lane = now % 32;
  if (a)
    memcpy(p.registers, a, sizeof p.registers);
  else
    for (unsigned k = 0; k < 16; k++)
      for (unsigned r = 0; r < 2; r++)
        p.at.push_back(mma_at(a_at, false, warp * 16 + lane / 4 + r * 8, k));
  for (unsigned n = 0; n < (unsigned)columns; n += 8)
    for (unsigned i = 0; i < 2; i++)
      for (unsigned k = 0; k < 16; k++)
        p.at.push_back(mma_at(b_at, a != NULL, n + lane % 4 * 2 + i, k));
  for (const uint16_t *x : p.at) p.was.push_back(*x);
  for (int i = 0; i < columns / 2 && !add; i++) c[i] = NAN;
  fibers[now].products.back().push_back(p);
}

void emulate_mma_close_group() { fibers[now].products.push_back({}); }

static void make(const product &p) {
  float a[2][16];
  const unsigned lane = now % 32;
  size_t next = 0;
  if (p.a) {
    if (memcmp(p.a, p.registers, sizeof p.registers)) end("a register changed under its product");
    const unsigned char *all = emulate_exchange(p.registers, sizeof p.registers);
    for (unsigned r = 0; r < 2; r++)
      for (unsigned k = 0; k < 16; k++) {
        uint32_t x;
        memcpy(&x, all + 64 * (lane / 4 * 4 + k % 8 / 2) + 4 * (r + k / 8 * 2), 4);
        a[r][k] = rp_bf16_to_f32((uint16_t)(x >> k % 2 * 16));
      }
  } else {
    for (unsigned k = 0; k < 16; k++)
      for (unsigned r = 0; r < 2; r++) a[r][k] = rp_bf16_to_f32(p.was[next++]);
  }
  for (size_t i = 0; i < p.at.size(); i++)
    if (*p.at[i] != p.was[i]) end("shared memory changed under a product");
  for (unsigned n = 0; n < (unsigned)p.columns / 8; n++)
    for (unsigned i = 0; i < 2; i++) {
      float b[16];
      for (unsigned k = 0; k < 16; k++) b[k] = rp_bf16_to_f32(p.was[next++]);
      for (unsigned r = 0; r < 2; r++) {
        float *c = p.c + 4 * n + 2 * r + i, sum = p.add ? *c : 0;
        for (unsigned k = 0; k < 16; k++) sum += a[r][k] * b[k];
        *c = sum;
      }
    }
}

void emulate_mma_wait(int pending) {
  auto &g = fibers[now].products;
  while (g.size() > (size_t)pending + 1) {
    for (const product &p : g.front()) make(p);
    g.erase(g.begin());
  }
}

uint32_t emulate_shared_at(const void *p) {
  return (uint32_t)((const char *)p - (const char *)emulated.shared);
}

/* A gate as it lies in shared memory. */
struct gate_state {
  uint16_t count, missing;
  unsigned turn;
};

void emulate_gate_open(uint64_t *gate, uint32_t count) {
  *(gate_state *)gate = {(uint16_t)count, (uint16_t)count, 0};
}
void emulate_gate_come(uint64_t *gate) {
  gate_state *g = (gate_state *)gate;
  if (--g->missing) return;
  g->missing = g->count;
  g->turn++;
}
void emulate_gate_come_behind_copies(uint64_t *gate) {
  emulate_copies_close_group();
  emulate_copies_wait(0);
  emulate_gate_come(gate);
}
void emulate_gate_wait(uint64_t *gate, uint32_t turn) {
  const gate_state *g = (const gate_state *)gate;
  while (g->turn % 2 == turn) wait_for(&g->turn, g->turn);
}

void emulate_barrier_pass(int id, unsigned need) {
  barrier *b = &barriers[id];
  b->need = need;
  if (++b->arrived < need) return;
  b->arrived = 0;
  b->turn++;
}

bool fake_emulate(fake_kernel k, const unsigned grid[3], unsigned n, unsigned shared,
                  const void *args) {
  /* The bytes asked for end where a page begins that nobody may touch. */
  static char *room;
  enum { ROOM = 256 << 10, PAGE = 4096 };
  if (!room) {
    void *at = mmap(NULL, ROOM + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) abort();
    room = (char *)at;
    mprotect(room + ROOM, PAGE, PROT_NONE);
  }
  kernel = k;
  kernel_args = args;
  threads = n;
  stopped = false;
  emulated.block_size = {n, 1, 1};
  emulated.grid = {grid[0], grid[1], grid[2]};
  emulated.shared = room + ROOM - (shared + 127) / 128 * 128;
  for (unsigned z = 0; z < grid[2]; z++)
    for (unsigned y = 0; y < grid[1]; y++)
      for (unsigned x = 0; x < grid[0] && !stopped; x++) {
        emulated.block = {x, y, z};
        memset(emulated.shared, 0xff, shared);
        run_block((x + y + z) % 2);
      }
  return !stopped;
}
