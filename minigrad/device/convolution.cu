// Convolution, directly from the images: a block brings the part of x that its cells of y need into shared memory, some
// channels at a time, with the weights beside it. What a kernel covers lies there once, where columns hold it
// KH KW times.
//
// Defined by the caller, so that divisions are by constants: C, H, W and O, OH, OW: channels, height and width of x and
// of y; GROUPS; KH, KW the kernel's size; SH, SW its stride; PH, PW padding (also below 0); DH, DW dilation.
// TURNED: the weights are those of the convolution that this one is the adjoint of (stride 1): (C, O / GROUPS, KH, KW),
// to be read with channels exchanged and the taps backwards.
// The block's tile: IMAGES images, ROWS rows of y, OT channels of y, CT channels of x at a time. A thread computes EACH
// cells of y in MANY channels; LANES threads have all cells of the tile.

#define CG (C / GROUPS)
#define OG (O / GROUPS)
#define TAPS (KH * KW)
#define BANDS ((OH + ROWS - 1) / ROWS)
#define XROWS ((ROWS - 1) * SH + (KH - 1) * DH + 1)
#define XCOLUMNS ((OW - 1) * SW + (KW - 1) * DW + 1)
#define PLANE (IMAGES * XROWS * XCOLUMNS)
#define CELLS (IMAGES * ROWS * OW)
#define THREADS (LANES * (OT / MANY))

struct alignas(MANY * sizeof(real) < 16 ? MANY * sizeof(real) : 16) Several {  // weights of neighbouring channels of y
    real of[MANY];
};

__device__ inline real weight(const real *w, int group, int o, int c, int tap) {
    if (o >= OG || c >= CG) return 0;
    return TURNED ? w[((group * CG + c) * OG + o) * TAPS + TAPS - 1 - tap] : w[((group * OG + o) * CG + c) * TAPS + tap];
}

// y (n, O, OH, OW) with its bias, and ReLU where it is asked for; NaN stays NaN.
extern "C" __global__ void __launch_bounds__(THREADS) conv(
    const real *x, const real *w, const real *bias, real *y, long long images, long long relu) {
    __shared__ real tile[CT * PLANE];
    __shared__ Several weights[CT * TAPS][OT / MANY];
    const int thread = threadIdx.x, lane = thread % LANES, several = thread / LANES;
    const int image0 = blockIdx.x / BANDS * IMAGES, row0 = blockIdx.x % BANDS * ROWS, o0 = blockIdx.y * OT;
    const int group = blockIdx.z;

    int corner[EACH];  // in the tile, of what the kernel covers at each of the thread's cells
#pragma unroll
    for (int q = 0; q < EACH; q++) {
        const int cell = lane + q * LANES;
        const int image = cell / (ROWS * OW), row = cell / OW % ROWS, column = cell % OW;
        corner[q] = cell < CELLS ? (image * XROWS + row * SH) * XCOLUMNS + column * SW : 0;
    }
    real sum[EACH][MANY];
#pragma unroll
    for (int q = 0; q < EACH; q++)
#pragma unroll
        for (int m = 0; m < MANY; m++) sum[q][m] = 0;

    for (int c0 = 0; c0 < CG; c0 += CT) {
#pragma unroll 4
        for (int e = thread; e < CT * PLANE; e += THREADS) {
            const int c = c0 + e / PLANE, image = image0 + e % PLANE / (XROWS * XCOLUMNS);
            const int i = row0 * SH - PH + e / XCOLUMNS % XROWS, j = e % XCOLUMNS - PW;
            const bool inside = c < CG && image < images && 0 <= i && i < H && 0 <= j && j < W;
            tile[e] = inside ? x[((image * C + group * CG + c) * H + i) * W + j] : real(0);
        }
#pragma unroll 4
        for (int e = thread; e < CT * TAPS * OT; e += THREADS) {
            const int o = e / (CT * TAPS), k = e % (CT * TAPS);
            weights[k][o / MANY].of[o % MANY] = weight(w, group, o0 + o, c0 + k / TAPS, k % TAPS);
        }
        __syncthreads();
#pragma unroll 1
        for (int c = 0; c < CT; c++) {
#pragma unroll
            for (int tap = 0; tap < TAPS; tap++) {
                const Several of_w = weights[c * TAPS + tap][several];
                const real *at = tile + c * PLANE + tap / KW * DH * XCOLUMNS + tap % KW * DW;
#pragma unroll
                for (int q = 0; q < EACH; q++) {
                    const real value = at[corner[q]];
#pragma unroll
                    for (int m = 0; m < MANY; m++) sum[q][m] += value * of_w.of[m];
                }
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (int q = 0; q < EACH; q++) {
        const int cell = lane + q * LANES;
        const int image = image0 + cell / (ROWS * OW), row = row0 + cell / OW % ROWS, column = cell % OW;
        if (cell >= CELLS || image >= images || row >= OH) continue;
#pragma unroll
        for (int m = 0; m < MANY; m++) {
            const int o = o0 + several * MANY + m;
            if (o >= OG) break;
            real value = sum[q][m];
            if (bias) value += bias[group * OG + o];
            if (relu && value < 0) value = 0;
            y[((image * O + group * OG + o) * OH + row) * OW + column] = value;
        }
    }
}
