// The adjoint of convolution with respect to its weights: for each channel of x, each of y and each tap, the sum over
// all cells of g times what lies under the tap. Defined by the caller as for `conv`, and of its own: ROWS of g in a
// tile, CT channels of x, OT of g; a thread has MANY of g's channels with one of x's at all taps, for every PARTS-th
// strip of the tile. A *strip* is STRIP neighbouring cells of a row: what the kernel covers there is read once for
// all of them.

#define CG (C / GROUPS)
#define OG (O / GROUPS)
#define TAPS (KH * KW)
#define STRIP 4
#define BANDS ((OH + ROWS - 1) / ROWS)
#define ACROSS ((OW + STRIP - 1) / STRIP)
#define STRIPS (ROWS * ACROSS)
#define XROWS ((ROWS - 1) * SH + (KH - 1) * DH + 1)
#define XCOLUMNS ((ACROSS * STRIP - 1) * SW + (KW - 1) * DW + 1)
#define PITCH (XROWS * XCOLUMNS | 1)  // odd: the same cell of neighbouring channels is in different banks
#define UNDER ((STRIP - 1) * SW + (KW - 1) * DW + 1)
#define OWNERS (CT * (OT / MANY))
#define THREADS (OWNERS * PARTS)

struct alignas(16) Strip {
    real of[STRIP];
};

union Memory {
    struct {
        Strip g[STRIPS][OT + 1];
        real x[CT][PITCH];
    } tile;
    real sums[(PARTS + 1) / 2][MANY * TAPS][OWNERS];
};

// Whether any of the cells of y, one every `stride`, reads the place `at` of the padded x with one of `taps`, one every
// `dilation`. A tile also has cells that y lacks: times their zeros what no cell reads would still be NaN where it is.
__device__ inline bool is_read(int at, int cells, int stride, int taps, int dilation) {
    if (dilation == 1) return at < (cells - 1) * stride + taps;  // what lies between two cells' taps is read by none
    bool found = false;
    for (int tap = 0; tap < taps; tap++) {
        const int first = at - tap * dilation;
        found |= first >= 0 && first % stride == 0 && first / stride < cells;
    }
    return found;
}

// w (splits, O, CG, KH, KW): each split has the sum over its images' bands.
extern "C" __global__ void __launch_bounds__(THREADS) conv_weight(
    const real *x, const real *g, real *w, long long images, long long splits) {
    __shared__ Memory memory;
    const int thread = threadIdx.x, channel = thread % CT, several = thread / CT % (OT / MANY), part = thread / OWNERS;
    const int split = blockIdx.x, group = blockIdx.z, tiles = (CG + CT - 1) / CT;
    const int c0 = blockIdx.y % tiles * CT, o0 = blockIdx.y / tiles * OT;
    const long long bands = images * BANDS;
    real sum[MANY][TAPS];
#pragma unroll
    for (int m = 0; m < MANY; m++)
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++) sum[m][tap] = 0;

    for (int band = bands * split / splits; band < bands * (split + 1) / splits; band++) {
        const int image = band / BANDS, row0 = band % BANDS * ROWS;
#pragma unroll 4
        for (int e = thread; e < CT * XROWS * XCOLUMNS; e += THREADS) {
            const int c = e / (XROWS * XCOLUMNS), at = e % (XROWS * XCOLUMNS);
            const int i = row0 * SH - PH + at / XCOLUMNS, j = at % XCOLUMNS - PW;
            const bool inside = c0 + c < CG && 0 <= i && i < H && 0 <= j && j < W && is_read(i + PH, OH, SH, KH, DH) &&
                                is_read(j + PW, OW, SW, KW, DW);
            memory.tile.x[c][at] = inside ? x[((image * C + group * CG + c0 + c) * H + i) * W + j] : real(0);
        }
#pragma unroll 4
        for (int e = thread; e < OT * STRIPS * STRIP; e += THREADS) {
            const int o = e / (STRIPS * STRIP), row = e / (ACROSS * STRIP) % ROWS, column = e % (ACROSS * STRIP);
            const bool inside = o0 + o < OG && row0 + row < OH && column < OW;
            memory.tile.g[row * ACROSS + column / STRIP][o].of[column % STRIP] =
                inside ? g[((image * O + group * OG + o0 + o) * OH + row0 + row) * OW + column] : real(0);
        }
        __syncthreads();
#pragma unroll 1
        for (int strip = part; strip < STRIPS; strip += PARTS) {
            Strip of_g[MANY];
#pragma unroll
            for (int m = 0; m < MANY; m++) of_g[m] = memory.tile.g[strip][several * MANY + m];
            const real *at = memory.tile.x[channel] + strip / ACROSS * SH * XCOLUMNS + strip % ACROSS * STRIP * SW;
#pragma unroll
            for (int i = 0; i < KH; i++) {
                real under[UNDER];
#pragma unroll
                for (int j = 0; j < UNDER; j++) under[j] = at[i * DH * XCOLUMNS + j];
#pragma unroll
                for (int j = 0; j < KW; j++)
#pragma unroll
                    for (int q = 0; q < STRIP; q++)
#pragma unroll
                        for (int m = 0; m < MANY; m++) sum[m][i * KW + j] += of_g[m].of[q] * under[q * SW + j * DW];
            }
        }
        __syncthreads();
    }

    // The parts of a block are added up by halves, always in one order.
    const int owner = thread % OWNERS;
    for (int parts = PARTS; parts > 1; parts = (parts + 1) / 2) {
        const int half = (parts + 1) / 2;
        if (half <= part && part < parts)
#pragma unroll
            for (int m = 0; m < MANY; m++)
#pragma unroll
                for (int tap = 0; tap < TAPS; tap++) memory.sums[part - half][m * TAPS + tap][owner] = sum[m][tap];
        __syncthreads();
        if (part < parts - half)
#pragma unroll
            for (int m = 0; m < MANY; m++)
#pragma unroll
                for (int tap = 0; tap < TAPS; tap++) sum[m][tap] += memory.sums[part][m * TAPS + tap][owner];
        __syncthreads();
    }
    if (part > 0 || c0 + channel >= CG) return;
#pragma unroll
    for (int m = 0; m < MANY; m++) {
        const int o = o0 + several * MANY + m;
        if (o >= OG) break;
#pragma unroll
        for (int tap = 0; tap < TAPS; tap++)
            w[((split * O + group * OG + o) * CG + c0 + channel) * TAPS + tap] = sum[m][tap];
    }
}
