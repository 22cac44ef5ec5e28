// Matrix products in batches, of matrices with any strides (in elements), so that a transposed one needs no copy.

struct Strided {
    const real *data;
    int stride0, stride1;
    bool along;
    __device__ real operator()(int i, int j) const { return data[(long long)i * stride0 + (long long)j * stride1]; }
};

struct Rows {
    real *data;
    int columns;
    __device__ void operator()(int i, int j, real value) const { data[(long long)i * columns + j] = value; }
};

// a (batch, m, k), b (batch, k, n) to y (splits, batch, m, n): each split has the products of its part of k.
extern "C" __global__ void matmul(
    const real *a, const real *b, real *y, long long batch, long long m, long long k, long long n, long long splits,
    long long a_batch, long long a_row, long long a_column, long long b_batch, long long b_row, long long b_column) {
    const int matrix = blockIdx.z % batch, split = blockIdx.z / batch;
    const Strided of_a = {a + matrix * a_batch, int(a_row), int(a_column), a_column == 1};
    const Strided of_b = {b + matrix * b_batch, int(b_row), int(b_column), b_column != 1};
    const Rows of_y = {y + (split * batch + matrix) * m * n, int(n)};
    tiled_product<2, 2>(of_a, of_b, of_y, m, n, split_at(split, splits, k), split_at(split + 1, splits, k));
}
