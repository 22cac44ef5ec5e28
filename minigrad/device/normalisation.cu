// BatchNorm over images (n, C, H, W) with ReLU and max pooling by windows that tile the image, which both may
// be left out. Defined by the caller: C channels, H and W of an image, KH and KW of a window (1, 1: no pooling),
// RELU 0 or 1.
//
// Two launches each way: sums by parts of the batch, then what is made of them. A block has one channel. Sums are
// (splits, C, 2); every block of the second launch adds up its channel's splits for itself, which is cheaper than a
// launch between the two, and always in one order, so that the same batch gives the same bits.
//
// Statistics are sums in double precision of a channel's distances from its first value: they hold where the mean is
// far larger than the spread.

#define IMAGE (H * W)
#define OW (W / KW)
#define POOLED (IMAGE / (KH * KW))
#define VECTOR (KW * sizeof(real))

struct alignas(KW & (KW - 1) || VECTOR > 16 ? sizeof(real) : VECTOR) Cells {  // a window's cells of one row
    real of[KW];
};

#define QUAD (IMAGE % 4 ? 1 : 4)
#define QUADS (IMAGE / QUAD)
struct alignas(QUAD == 4 ? 16 : sizeof(real)) Quad {  // neighbouring cells that are read at once
    real of[QUAD];
};

// Adds up two numbers of each of the first `busy` threads; every thread has the sums.
__device__ void block_sum(double &a, double &b, int busy) {
    __shared__ double parts[2][256];
    parts[0][threadIdx.x] = a;
    parts[1][threadIdx.x] = b;
    int half = 1;
    while (half * 2 < busy) half *= 2;
    for (; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half && threadIdx.x + half < blockDim.x) {
            parts[0][threadIdx.x] += parts[0][threadIdx.x + half];
            parts[1][threadIdx.x] += parts[1][threadIdx.x + half];
        }
    }
    __syncthreads();
    a = parts[0][0];
    b = parts[1][0];
}

__device__ inline void write(double *sums, double a, double b) {
    block_sum(a, b, blockDim.x);
    if (threadIdx.x > 0) return;
    sums[(blockIdx.y * C + blockIdx.x) * 2] = a;
    sums[(blockIdx.y * C + blockIdx.x) * 2 + 1] = b;
}

__device__ inline void read(const double *sums, int splits, double &a, double &b) {
    a = b = 0;
    for (int split = threadIdx.x; split < splits; split += blockDim.x) {
        a += sums[(split * C + blockIdx.x) * 2];
        b += sums[(split * C + blockIdx.x) * 2 + 1];
    }
    block_sum(a, b, splits < blockDim.x ? splits : blockDim.x);
}

// This block's part of `size` things.
__device__ inline int begin(long long size) { return size * blockIdx.y / gridDim.y; }
__device__ inline int end(long long size) { return size * (blockIdx.y + 1) / gridDim.y; }

// Block (channel, split): the sums of d and of d d, where d is the distance from x[0, channel, 0]. Counts the batch.
extern "C" __global__ void moments(const real *x, double *sums, long long *tracked, long long images) {
    const int channel = blockIdx.x;
    const double first = x[channel * IMAGE];
    double a = 0, b = 0;
    const int to = end(images * QUADS);
#pragma unroll 2
    for (int e = begin(images * QUADS) + threadIdx.x; e < to; e += blockDim.x) {
        const Quad quad = *(const Quad *)(x + (e / QUADS * C + channel) * IMAGE + e % QUADS * QUAD);
#pragma unroll
        for (int i = 0; i < QUAD; i++) {
            const double d = quad.of[i] - first;
            a += d;
            b += d * d;
        }
    }
    write(sums, a, b);
    if (tracked && channel == 0 && blockIdx.y == 0 && threadIdx.x == 0) *tracked += 1;
}

struct Channel {  // of one channel: z = scale (x - mean) + shift; the rest of the mean is what its rounding left out
    real mean, rest, scale, shift;
    __device__ real operator()(real x) const {
        const real z = ((x - mean) - rest) * scale + shift;
        return RELU && z < 0 ? real(0) : z;
    }
};

// y (n, C, H/KH, W/KW) of x, and for each window the number of the cell that was chosen, as `max_pool` chooses. Besides
// mean and 1 / sqrt(var + eps), and the running statistics' step: momentum weighs the new value, below 0 it is
// 1 / tracked, a mean of all batches. bias: moves the mean alone.
extern "C" __global__ void normalise(
    const real *x, const double *sums, double *mean, double *inverse, const real *gamma, const real *beta,
    const real *bias, real *running_mean, real *running_var, const long long *tracked, real *y, unsigned char *chosen,
    long long images, long long splits, double eps, double momentum) {
    const int channel = blockIdx.x;
    __shared__ Channel shared;
    double a, b;
    read(sums, splits, a, b);
    if (threadIdx.x == 0) {
        const double count = double(images) * IMAGE, shift = a / count, var = fmax(b / count - shift * shift, 0.0);
        const double middle = shift + x[channel * IMAGE], s = 1 / sqrt(var + eps);
        const real rounded = middle;
        shared = {rounded, real(middle - rounded), real(gamma[channel] * s), beta[channel]};
        if (blockIdx.y == 0) {
            mean[channel] = middle;
            inverse[channel] = s;
        }
        if (blockIdx.y == 0 && running_mean) {
            const double f = momentum < 0 ? 1 / double(*tracked) : momentum;
            const double new_mean = middle + (bias ? bias[channel] : real(0));
            running_mean[channel] = (1 - f) * running_mean[channel] + f * new_mean;
            running_var[channel] = (1 - f) * running_var[channel] + f * var * count / (count - 1);
        }
    }
    __syncthreads();
    const Channel z = shared;
    const int to = end(images * POOLED);
#pragma unroll 2
    for (int e = begin(images * POOLED) + threadIdx.x; e < to; e += blockDim.x) {
        const int plane = e / POOLED * C + channel, window = e % POOLED;
        const real *corner = x + plane * IMAGE + window / OW * KH * W + window % OW * KW;
        real best = 0;
        int number = -1;
#pragma unroll
        for (int i = 0; i < KH; i++) {
            const Cells cells = *(const Cells *)(corner + i * W);
#pragma unroll
            for (int j = 0; j < KW; j++) {
                const real value = z(cells.of[j]);
                if (number < 0 || value > best || (value != value && best == best)) {
                    best = value;
                    number = i * KW + j;
                }
            }
        }
        y[plane * POOLED + window] = best;
        if (chosen) chosen[plane * POOLED + window] = number;
    }
}

// The cotangent of z at one window: none where ReLU cut it off.
__device__ inline real through(real g, real y) { return RELU && !(y > 0) ? real(0) : g; }

// Block (channel, split): the sums of g and of g (x - mean) over the chosen cells.
extern "C" __global__ void cotangent_sums(
    const real *g, const real *y, const unsigned char *chosen, const real *x, const double *mean, double *sums,
    long long images) {
    const int channel = blockIdx.x;
    const double middle = mean[channel];
    double a = 0, b = 0;
    const int to = end(images * POOLED);
#pragma unroll 4
    for (int e = begin(images * POOLED) + threadIdx.x; e < to; e += blockDim.x) {
        const int plane = e / POOLED * C + channel, window = e % POOLED, at = plane * POOLED + window;
        const int k = KH * KW > 1 ? chosen[at] : 0;
        const int cell = (window / OW * KH + k / KW) * W + window % OW * KW + k % KW;
        const double some = through(g[at], y[at]);
        a += some;
        b += some * (x[plane * IMAGE + cell] - middle);
    }
    write(sums, a, b);
}

// dx = gamma s (g - mean(g) - (x - mean) s^2 mean(g (x - mean))), s = 1 / sqrt(var + eps); dgamma, dbeta, and that of
// a bias before, where it is asked for: zero, since the mean takes it away.
extern "C" __global__ void cotangent(
    const real *g, const real *y, const unsigned char *chosen, const real *x, const double *sums, const double *mean,
    const double *inverse, const real *gamma, real *dgamma, real *dbeta, real *dbias, real *dx, long long images,
    long long splits) {
    const int channel = blockIdx.x;
    __shared__ real coefficients[2];
    double a, b;
    read(sums, splits, a, b);
    const double s = inverse[channel], scale = gamma[channel] * s;
    if (threadIdx.x == 0) {
        const double count = double(images) * IMAGE;
        coefficients[0] = -scale * a / count;
        coefficients[1] = -scale * s * s * b / count;
        if (blockIdx.y == 0) {
            dgamma[channel] = b * s;
            dbeta[channel] = a;
            if (dbias) dbias[channel] = 0;
        }
    }
    __syncthreads();
    const real middle = mean[channel], rest = mean[channel] - middle, by_g = scale;
    const real constant = coefficients[0], by_x = coefficients[1];
    const int to = end(images * POOLED);
#pragma unroll 2
    for (int e = begin(images * POOLED) + threadIdx.x; e < to; e += blockDim.x) {
        const int plane = e / POOLED * C + channel, window = e % POOLED, at = plane * POOLED + window;
        const int corner = plane * IMAGE + window / OW * KH * W + window % OW * KW;
        const real some = by_g * through(g[at], y[at]);
        const int number = KH * KW > 1 ? chosen[at] : 0;
#pragma unroll
        for (int i = 0; i < KH; i++) {
            Cells cells = *(const Cells *)(x + corner + i * W);
#pragma unroll
            for (int j = 0; j < KW; j++)
                cells.of[j] = constant + by_x * ((cells.of[j] - middle) - rest) + (number == i * KW + j ? some : 0);
            *(Cells *)(dx + corner + i * W) = cells;
        }
    }
}
