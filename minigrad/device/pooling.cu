// Max pooling with windows of any kind. Defined by the caller: H, W and OH, OW, heights and widths of x and of y;
// KH, KW, SH, SW, PH, PW, DH, DW: kernel, stride, padding, dilation;  NUMBER: the type of a cell's number.
// NaN is the largest value, and of equal ones the first in row-major order is chosen. Padding takes no part.

__device__ inline bool larger(real a, real b) { return a > b || (a != a && b == b); }

// Of each window of x (planes, H, W) the largest value, to y (planes, OH, OW), and its cell's number, to `chosen`.
// lowest: -inf, the largest value of a window that is all padding.
extern "C" __global__ void max_pool(const real *x, real *y, NUMBER *chosen, long long windows, double lowest) {
    const long long window = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (window >= windows) return;
    const real *plane = x + window / (OH * OW) * (H * W);
    const int place = window % (OH * OW), top = place / OW * SH - PH, left = place % OW * SW - PW;
    real best = 0;
    int number = -1;
    for (int i = 0; i < KH; i++)
        for (int j = 0; j < KW; j++) {
            const int row = top + i * DH, column = left + j * DW;
            if (row < 0 || row >= H || column < 0 || column >= W) continue;
            const real value = plane[row * W + column];
            if (number < 0 || larger(value, best)) {
                best = value;
                number = i * KW + j;
            }
        }
    if (y) y[window] = number < 0 ? real(lowest) : best;
    if (chosen) chosen[window] = number < 0 ? KH * KW : number;
}

// g at the chosen cells of x, zeros elsewhere; overlapping windows add up, each cell of x in one order.
extern "C" __global__ void max_pool_place(const real *g, const NUMBER *chosen, real *x, long long cells) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= cells) return;
    const long long plane = at / (H * W) * (OH * OW);
    const int row = at % (H * W) / W, column = at % W;
    real sum = 0;
    for (int i = 0; i < KH; i++)
        for (int j = 0; j < KW; j++) {
            const int top = row + PH - i * DH, left = column + PW - j * DW;
            if (top < 0 || left < 0 || top % SH || left % SW || top / SH >= OH || left / SW >= OW) continue;
            const long long window = plane + top / SH * OW + left / SW;
            if (chosen[window] == i * KW + j) sum += g[window];
        }
    x[at] = sum;
}
