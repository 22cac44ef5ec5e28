// BatchNorm over images (n, channels, H W) with ReLU and max pooling by windows that tile the image, which both may
// be left out. Defined by the caller: C channels, H and W of an image, KH and KW of a window (1, 1: no pooling),
// RELU 0 or 1.
//
// Statistics are sums in double precision of a channel's distances from its first value: they hold where the mean is
// far larger than the spread. Sums are by blocks first, (splits, C, 2), then over splits, always in one order, so that
// the same batch gives the same bits.

#define IMAGE (H * W)
#define OW (W / KW)
#define POOLED (IMAGE / (KH * KW))

// Adds up two numbers of each thread; thread 0 has the sums.
__device__ void block_sum(double &a, double &b) {
    __shared__ double parts[2][256];
    parts[0][threadIdx.x] = a;
    parts[1][threadIdx.x] = b;
    for (int half = blockDim.x / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            parts[0][threadIdx.x] += parts[0][threadIdx.x + half];
            parts[1][threadIdx.x] += parts[1][threadIdx.x + half];
        }
    }
    a = parts[0][0];
    b = parts[1][0];
}

// Block (channel, split): of its images of x the sums of d and of d d, where d is the distance from x[0, channel, 0].
extern "C" __global__ void moments(const real *x, double *sums, long long images) {
    const int channel = blockIdx.x;
    const real first = x[(long long)channel * IMAGE];
    double a = 0, b = 0;
    for (long long n = blockIdx.y; n < images; n += gridDim.y) {
        const real *image = x + (n * C + channel) * IMAGE;
        for (int i = threadIdx.x; i < IMAGE; i += blockDim.x) {
            const double d = double(image[i]) - first;
            a += d;
            b += d * d;
        }
    }
    block_sum(a, b);
    if (threadIdx.x == 0) {
        sums[(blockIdx.y * C + channel) * 2] = a;
        sums[(blockIdx.y * C + channel) * 2 + 1] = b;
    }
}

// One block, of threads for the channels: mean and 1 / sqrt(var + eps), and the running statistics' step.
// momentum: weighs the new value; below 0 it is 1 / tracked, a mean of all batches. bias: moves the mean alone.
extern "C" __global__ void statistics(
    const real *x, const double *sums, double *mean, double *inverse, const real *bias, real *running_mean,
    real *running_var, long long *tracked, long long images, long long splits, double eps, double momentum) {
    const double count = double(images) * IMAGE;
    for (int channel = threadIdx.x; channel < C; channel += blockDim.x) {
        double a = 0, b = 0;
        for (int split = 0; split < splits; split++) {
            a += sums[(split * C + channel) * 2];
            b += sums[(split * C + channel) * 2 + 1];
        }
        a /= count;
        double var = b / count - a * a;
        var = var < 0 ? 0 : var;
        const double middle = a + x[(long long)channel * IMAGE];
        mean[channel] = middle;
        inverse[channel] = 1 / sqrt(var + eps);
        if (running_mean) {
            const double f = momentum < 0 ? 1 / double(*tracked + 1) : momentum;
            const double new_mean = middle + (bias ? bias[channel] : real(0));
            running_mean[channel] = (1 - f) * running_mean[channel] + f * new_mean;
            running_var[channel] = (1 - f) * running_var[channel] + f * var * count / (count - 1);
        }
    }
    __syncthreads();
    if (running_mean && threadIdx.x == 0) *tracked += 1;
}

struct Channel {  // of one channel: z = scale (x - mean) + shift; the rest of the mean is what its rounding left out
    real mean, rest, scale, shift;
    __device__ real operator()(real x) const {
        const real z = ((x - mean) - rest) * scale + shift;
        return RELU && z < 0 ? real(0) : z;
    }
};

__device__ inline Channel channel_of(
    int c, const double *mean, const double *inverse, const real *gamma, const real *beta) {
    const real rounded = mean[c];
    return {rounded, real(mean[c] - rounded), real(gamma[c] * inverse[c]), beta[c]};
}

// y (n, C, H/KH, W/KW) of x, and for each window the number of the cell that was chosen, as `max_pool` chooses.
extern "C" __global__ void normalise(
    const real *x, const double *mean, const double *inverse, const real *gamma, const real *beta, real *y,
    unsigned char *chosen, long long size) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= size) return;
    const long long plane = at / POOLED;
    const int window = at % POOLED;
    const Channel z = channel_of(plane % C, mean, inverse, gamma, beta);
    const real *corner = x + plane * IMAGE + window / OW * KH * W + window % OW * KW;
    real best = z(corner[0]);
    int number = 0;
    for (int k = 1; k < KH * KW; k++) {
        const real value = z(corner[k / KW * W + k % KW]);
        if (value > best || (value != value && best == best)) {
            best = value;
            number = k;
        }
    }
    y[at] = best;
    if (chosen) chosen[at] = number;
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
    for (long long n = blockIdx.y; n < images; n += gridDim.y) {
        const long long plane = n * C + channel;
        for (int i = threadIdx.x; i < POOLED; i += blockDim.x) {
            const double some = through(g[plane * POOLED + i], y[plane * POOLED + i]);
            const int k = KH * KW > 1 ? chosen[plane * POOLED + i] : 0;
            const int cell = (i / OW * KH + k / KW) * W + i % OW * KW + k % KW;
            a += some;
            b += some * (x[plane * IMAGE + cell] - middle);
        }
    }
    block_sum(a, b);
    if (threadIdx.x == 0) {
        sums[(blockIdx.y * C + channel) * 2] = a;
        sums[(blockIdx.y * C + channel) * 2 + 1] = b;
    }
}

// A thread for each channel: the cotangents of gamma and beta, and the two coefficients of `cotangent`.
extern "C" __global__ void cotangent_totals(
    const double *sums, const double *inverse, const real *gamma, real *dgamma, real *dbeta, double *coefficients,
    long long images, long long splits) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= C) return;
    const double count = double(images) * IMAGE, s = inverse[channel];
    double a = 0, b = 0;
    for (int split = 0; split < splits; split++) {
        a += sums[(split * C + channel) * 2];
        b += sums[(split * C + channel) * 2 + 1];
    }
    dgamma[channel] = b * s;
    dbeta[channel] = a;
    coefficients[channel * 2] = -gamma[channel] * s * a / count;
    coefficients[channel * 2 + 1] = -gamma[channel] * s * s * s * b / count;
}

// dx = gamma s (g - mean(g) - (x - mean) s^2 mean(g (x - mean))), s = 1 / sqrt(var + eps).
extern "C" __global__ void cotangent(
    const real *g, const real *y, const unsigned char *chosen, const real *x, const double *mean, const double *inverse,
    const real *gamma, const double *coefficients, real *dx, long long size) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= size) return;
    const long long plane = at / IMAGE;
    const int channel = plane % C, row = at % IMAGE / W, column = at % W;
    const long long window = plane * POOLED + row / KH * OW + column / KW;
    const real middle = mean[channel], rest = mean[channel] - middle;
    real sum = real(coefficients[channel * 2]) + real(coefficients[channel * 2 + 1]) * ((x[at] - middle) - rest);
    if (KH * KW == 1 || chosen[window] == row % KH * KW + column % KW)
        sum += real(gamma[channel] * inverse[channel]) * through(g[window], y[window]);
    dx[at] = sum;
}
