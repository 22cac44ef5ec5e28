// Convolution and its two adjoints as tiled products. Defined by the caller, so that divisions are by constants:
// C, H, W and O, OH, OW: channels, height and width of x and of y;  GROUPS;  KH, KW the kernel's size;
// SH, SW its stride;  PH, PW padding;  DH, DW dilation;  TILE: rows of a tile of channels, in units of 16.

#define CG (C / GROUPS)
#define OG (O / GROUPS)
#define TAPS (KH * KW)
#define CELLS (OH * OW)
#define WIDE 4

struct Matrix {  // one group's weights, (OG, CG TAPS)
    const real *w;
    enum { along = true };  // k runs fastest in memory
    __device__ real operator()(int o, int k) const { return w[o * (CG * TAPS) + k]; }
};

struct Columns {  // for each cell of y, what the kernel covers of x: (CG TAPS, n CELLS)
    const real *x;
    enum { along = false };
    __device__ real operator()(int k, int p) const {
        const int n = p / CELLS, cell = p % CELLS, c = k / TAPS, tap = k % TAPS;
        const int i = cell / OW * SH - PH + tap / KW * DH, j = cell % OW * SW - PW + tap % KW * DW;
        return 0 <= i && i < H && 0 <= j && j < W ? x[(long long)n * (C * H * W) + (c * H + i) * W + j] : real(0);
    }
};

struct Activation {  // y (n, O, OH, OW) with its bias, and ReLU where it is asked for; NaN stays NaN
    real *y;
    const real *bias;
    bool relu;
    __device__ void operator()(int o, int p, real value) const {
        if (bias) value += bias[o];
        if (relu && value < 0) value = 0;
        y[(long long)(p / CELLS) * (O * CELLS) + o * CELLS + p % CELLS] = value;
    }
};

extern "C" __global__ void conv(
    const real *x, const real *w, const real *bias, real *y, long long images, long long relu) {
    const int group = blockIdx.z;
    const Matrix of_w = {w + group * OG * CG * TAPS};
    const Columns of_x = {x + group * CG * H * W};
    const Activation of_y = {y + group * OG * CELLS, bias ? bias + group * OG : bias, relu != 0};
    tiled_product<TILE, WIDE>(of_w, of_x, of_y, OG, images * CELLS, 0, CG * TAPS);
}

struct Turned {  // one group's weights, (CG, OG TAPS)
    const real *w;
    enum { along = true };  // k runs fastest in memory
    __device__ real operator()(int c, int k) const { return w[(k / TAPS * CG + c) * TAPS + k % TAPS]; }
};

struct Reached {  // for each cell of x, the cells of g that a tap of the kernel joins it to: (OG TAPS, n H W)
    const real *g;
    enum { along = false };
    __device__ real operator()(int k, int p) const {
        const int n = p / (H * W), cell = p % (H * W), o = k / TAPS, tap = k % TAPS;
        const int i = cell / W + PH - tap / KW * DH, j = cell % W + PW - tap % KW * DW;
        if (i < 0 || j < 0 || i % SH || j % SW || i / SH >= OH || j / SW >= OW) return 0;
        return g[(long long)n * (O * CELLS) + o * CELLS + i / SH * OW + j / SW];
    }
};

struct Images {
    real *x;
    __device__ void operator()(int c, int p, real value) const {
        x[(long long)(p / (H * W)) * (C * H * W) + c * (H * W) + p % (H * W)] = value;
    }
};

extern "C" __global__ void conv_input(const real *g, const real *w, real *x, long long images) {
    const int group = blockIdx.z;
    const Turned of_w = {w + group * OG * CG * TAPS};
    const Reached of_g = {g + group * OG * CELLS};
    const Images of_x = {x + group * CG * H * W};
    tiled_product<TILE, WIDE>(of_w, of_g, of_x, CG, images * H * W, 0, OG * TAPS);
}

struct Cotangents {  // g of one group as (OG, n CELLS)
    const real *g;
    enum { along = true };  // k runs fastest in memory
    __device__ real operator()(int o, int p) const {
        return g[(long long)(p / CELLS) * (O * CELLS) + o * CELLS + p % CELLS];
    }
};

struct Rows {  // the transpose of Columns
    Columns columns;
    enum { along = true };  // k runs fastest in memory
    __device__ real operator()(int p, int k) const { return columns(k, p); }
};

struct Weights {
    real *w;
    __device__ void operator()(int o, int k, real value) const { w[o * (CG * TAPS) + k] = value; }
};

// w (splits, O, CG, KH, KW): each split has the sum over its part of the cells of y.
extern "C" __global__ void conv_weight(
    const real *x, const real *g, real *w, long long images, long long splits) {
    const int group = blockIdx.z % GROUPS, split = blockIdx.z / GROUPS;
    const Cotangents of_g = {g + group * OG * CELLS};
    const Rows of_x = {{x + group * CG * H * W}};
    const Weights of_w = {w + (long long)split * (O * CG * TAPS) + group * OG * CG * TAPS};
    const int cells = images * CELLS;
    tiled_product<TILE, WIDE>(
        of_g, of_x, of_w, OG, CG * TAPS, split_at(split, splits, cells), split_at(split + 1, splits, cells));
}
