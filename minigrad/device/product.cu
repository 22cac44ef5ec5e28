// A product of two matrices in tiles that a block of 16 x 16 threads brings into shared memory.
//
// What the matrices are is the caller's affair: a(i, k) and b(k, j) read an element, wherever it lies, and
// y(i, j, value) writes one. A convolution is such a product whose b reads the columns of images straight from
// the images ("implicit GEMM"): the columns are never written down.
//
// A thread computes TM x TN elements: rows ty, ty + 16, ... and columns tx, tx + 16, ... of its block's tile, so
// that neighbouring threads read neighbouring cells. along: whether k runs fastest in memory, and so over threads.

#define SIDE 16
#define DEPTH 16

template <int TM, int TN, class A, class B, class Y>
__device__ void tiled_product(const A &a, const B &b, const Y &y, int rows, int columns, int from, int to) {
    __shared__ real left[DEPTH][SIDE * TM + 1];
    __shared__ real right[DEPTH][SIDE * TN + 1];
    const int thread = threadIdx.x, tx = thread % SIDE, ty = thread / SIDE;
    const int row0 = blockIdx.y * SIDE * TM, column0 = blockIdx.x * SIDE * TN;
    real sum[TM][TN];
    for (int i = 0; i < TM; i++)
        for (int j = 0; j < TN; j++) sum[i][j] = 0;

    for (int k0 = from; k0 < to; k0 += DEPTH) {
#pragma unroll
        for (int r = 0; r < TM; r++) {
            const int e = thread + r * SIDE * SIDE;
            const int k = a.along ? e % DEPTH : e / (SIDE * TM), i = a.along ? e / DEPTH : e % (SIDE * TM);
            left[k][i] = row0 + i < rows && k0 + k < to ? a(row0 + i, k0 + k) : real(0);
        }
#pragma unroll
        for (int r = 0; r < TN; r++) {
            const int e = thread + r * SIDE * SIDE;
            const int k = b.along ? e % DEPTH : e / (SIDE * TN), j = b.along ? e / DEPTH : e % (SIDE * TN);
            right[k][j] = column0 + j < columns && k0 + k < to ? b(k0 + k, column0 + j) : real(0);
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < DEPTH; k++) {
            real of_a[TM], of_b[TN];
#pragma unroll
            for (int i = 0; i < TM; i++) of_a[i] = left[k][ty + i * SIDE];
#pragma unroll
            for (int j = 0; j < TN; j++) of_b[j] = right[k][tx + j * SIDE];
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++) sum[i][j] += of_a[i] * of_b[j];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < TM; i++)
#pragma unroll
        for (int j = 0; j < TN; j++) {
            const int row = row0 + ty + i * SIDE, column = column0 + tx + j * SIDE;
            if (row < rows && column < columns) y(row, column, sum[i][j]);
        }
}

// The part of 0..length that the split `number` of `splits` adds up: whole tiles, but for the last.
__device__ inline int split_at(int number, int splits, int length) {
    const int tiles = (length + DEPTH - 1) / DEPTH;
    const int cut = int((long long)tiles * number / splits) * DEPTH;
    return cut < length ? cut : length;
}
