// The adjoint of convolution with respect to its input, for any stride, as a tiled product ("implicit GEMM"). With
// stride 1 it is a convolution itself, and `conv` computes it. Defined by the caller, so that divisions are by constants:
// C, H, W and O, OH, OW: channels, height and width of x and of y;  GROUPS;  KH, KW the kernel's size;
// SH, SW its stride;  PH, PW padding;  DH, DW dilation;  TILE: rows of a tile of channels, in units of 16.

#define CG (C / GROUPS)
#define OG (O / GROUPS)
#define TAPS (KH * KW)
#define CELLS (OH * OW)
#define WIDE 4

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
