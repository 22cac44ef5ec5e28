// CUDA C++ on the host: what a kernel's source needs so that a C++ compiler takes it, and a launch that runs every
// thread of every block. Blocks run one after the other. The threads of a block are fibers: each runs up to the next
// barrier, then the next one does, forwards or backwards, so that a missing barrier shows as another result. A barrier
// that only some threads reach, which hangs or worse on a device, is an error.
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

using std::exp;
using std::log;
using std::pow;
using std::sqrt;

struct dim3 {
    unsigned int x, y, z;
};
static dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace fibers {
enum State { waiting, barrier, done };
struct Fiber {
    ucontext_t beginning;
    jmp_buf place;
    State state;
    bool begun;
    dim3 index;
    char *stack;
};
static const int STACK = 1 << 16;
static Fiber all[1024];
static Fiber *running;
static jmp_buf scheduler;
static void (*body)(void **);
static void **parameters;
static int turn, count;

// The life of a fiber: the body for one block after the other. (Its beginning costs system calls, a jump does not.)
static void live() {
    for (;;) {
        body(parameters);
        running->state = done;
        if (!_setjmp(running->place)) _longjmp(scheduler, 1);
    }
}

// Runs one block; 0, or 1 where only some threads reached a barrier.
static int block(bool backwards) {
    for (int t = 0; t < count; t++) all[t].state = waiting;
    for (;;) {
        for (turn = 0; turn < count; turn++) {
            running = &all[backwards ? count - 1 - turn : turn];
            threadIdx = running->index;
            if (!_setjmp(scheduler)) {
                if (running->begun) _longjmp(running->place, 1);
                running->begun = true;
                getcontext(&running->beginning);
                running->beginning.uc_stack.ss_sp = running->stack;
                running->beginning.uc_stack.ss_size = STACK;
                makecontext(&running->beginning, live, 0);
                setcontext(&running->beginning);
            }
        }
        int finished = 0;
        for (int t = 0; t < count; t++) finished += all[t].state == done;
        if (finished == count) return 0;
        if (finished) return 1;
    }
}

static int run(
    const unsigned int *grid, const unsigned int *threads, int backwards, void **arguments, void (*call)(void **)) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads[0], threads[1], threads[2]};
    count = threads[0] * threads[1] * threads[2];
    body = call;
    parameters = arguments;
    for (int t = 0; t < count; t++) {
        all[t].index = {t % threads[0], t / threads[0] % threads[1], t / threads[0] / threads[1]};
        if (!all[t].stack) all[t].stack = (char *)malloc(STACK);
    }
    for (unsigned int z = 0; z < grid[2]; z++)
        for (unsigned int y = 0; y < grid[1]; y++)
            for (unsigned int x = 0; x < grid[0]; x++) {
                blockIdx = {x, y, z};
                if (block(backwards)) {
                    for (int t = 0; t < count; t++) all[t].begun = false;  // those in the middle of a body begin anew
                    return 1;
                }
            }
    return 0;
}
}  // namespace fibers

static void __syncthreads() {
    fibers::Fiber *self = fibers::running;
    self->state = fibers::barrier;
    if (!_setjmp(self->place)) _longjmp(fibers::scheduler, 1);
}

template <class T>
static T atomicAdd(T *at, T value) {
    const T before = *at;
    *at += value;
    return before;
}
