// One step of SGD, Adagrad, RMSprop, Adam or AdamW for up to MOST arrays in one launch. Block (part, array).
//
// The count of steps and the hyper-parameters are read from the device's memory, so that a captured launch can be
// replayed: it counts on by itself, and sees a learning rate that was written between two replays.

#define MOST 64

struct Row {  // parameter, gradient, memories, size, and the row of `hyper`
    real *p;
    const real *g;
    real *m, *v, *most;
    long long size, group;
};
struct Arrays {  // by value in the launch
    Row row[MOST];
};

// Counts on when the last block of an array has read the count: `tickets` says how many have.
__device__ void count_on(long long *count, unsigned int *tickets) {
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(tickets, 1u) == gridDim.x - 1) {
        *tickets = 0;
        *count += 1;
    }
}

#define HYPER 8  // lr, weight_decay, maximize, and five of the rule's own

// v = momentum v + g;  p = p - lr v, with nesterov p - lr (g + momentum v).  hyper[3..4]: momentum, nesterov.
extern "C" __global__ void sgd(Arrays arrays, const double *hyper, long long *counts, unsigned int *tickets) {
    const int array = blockIdx.y;
    const Row row = arrays.row[array];
    const double *of = hyper + row.group * HYPER;
    const real lr = of[0], decay = of[1], momentum = of[3];
    const bool maximize = of[2] != 0, nesterov = of[4] != 0;
    real *p = row.p, *v = row.m;
    const real *gradient = row.g;
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < row.size; i += stride) {
        real g = maximize ? -gradient[i] : gradient[i];
        if (decay != 0) g += decay * p[i];
        if (momentum != 0) {
            const real rolled = v[i] * momentum + g;
            v[i] = rolled;
            g = nesterov ? g + rolled * momentum : rolled;
        }
        p[i] -= lr * g;
    }
    count_on(counts + array, tickets + array);
}

// m = m + g^2;  t counts from 1;  p = p - lr / (1 + (t - 1) lr_decay) g / (sqrt(m) + eps).  hyper[3..4]: lr_decay, eps.
extern "C" __global__ void adagrad(Arrays arrays, const double *hyper, long long *counts, unsigned int *tickets) {
    const int array = blockIdx.y;
    const Row row = arrays.row[array];
    const double *of = hyper + row.group * HYPER;
    const real rate = of[0] / (1 + counts[array] * of[3]), decay = of[1], eps = of[4];
    const bool maximize = of[2] != 0;
    real *p = row.p, *m = row.m;
    const real *gradient = row.g;
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < row.size; i += stride) {
        real g = maximize ? -gradient[i] : gradient[i];
        if (decay != 0) g += decay * p[i];
        const real sum = m[i] + g * g;
        m[i] = sum;
        p[i] -= g / (sqrt(sum) + eps) * rate;
    }
    count_on(counts + array, tickets + array);
}

// m = alpha m + (1 - alpha) g^2;  centered: v = alpha v + (1 - alpha) g, and m - v^2 in the place of m;
// d = g / (sqrt(m) + eps);  with momentum most = momentum most + d, and that for d;  p = p - lr d.
// hyper[3..6]: alpha, eps, momentum, centered.
extern "C" __global__ void rmsprop(Arrays arrays, const double *hyper, long long *counts, unsigned int *tickets) {
    const int array = blockIdx.y;
    const Row row = arrays.row[array];
    const double *of = hyper + row.group * HYPER;
    const real lr = of[0], decay = of[1], alpha = of[3], other = 1 - of[3], eps = of[4], momentum = of[5];
    const bool maximize = of[2] != 0, centered = of[6] != 0;
    real *p = row.p, *m = row.m, *v = row.v, *rolling = row.most;
    const real *gradient = row.g;
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < row.size; i += stride) {
        real g = maximize ? -gradient[i] : gradient[i];
        if (decay != 0) g += decay * p[i];
        real square = m[i] * alpha + g * g * other;
        m[i] = square;
        if (centered) {
            const real mean = v[i] * alpha + g * other;
            v[i] = mean;
            square -= mean * mean;
        }
        real d = g / (sqrt(square) + eps);
        if (momentum != 0) {
            d += rolling[i] * momentum;
            rolling[i] = d;
        }
        p[i] -= d * lr;
    }
    count_on(counts + array, tickets + array);
}

// m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;  t counts from 1;
// p = p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps).
// hyper[3..7]: beta1, beta2, eps, amsgrad, decoupled (AdamW: p = p - lr decay p first, instead of a decay in g).
extern "C" __global__ void adam(Arrays arrays, const double *hyper, long long *counts, unsigned int *tickets) {
    const int array = blockIdx.y;
    const Row row = arrays.row[array];
    const double *of = hyper + row.group * HYPER;
    __shared__ double corrections[2];
    if (threadIdx.x == 0) {
        const double t = counts[array] + 1;
        corrections[0] = of[0] / (1 - pow(of[3], t));
        corrections[1] = sqrt(1 - pow(of[4], t));
    }
    __syncthreads();
    const real rate = corrections[0], root = corrections[1];
    const real decay = of[1], beta1 = of[3], beta2 = of[4], eps = of[5], other1 = 1 - of[3], other2 = 1 - of[4];
    const real shrunk = of[0] * of[1];
    const bool maximize = of[2] != 0, amsgrad = of[6] != 0, decoupled = of[7] != 0;
    real *p = row.p, *m = row.m, *v = row.v, *most = row.most;
    const real *gradient = row.g;
    const long long stride = (long long)gridDim.x * blockDim.x;
    for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < row.size; i += stride) {
        real g = maximize ? -gradient[i] : gradient[i], value = p[i];
        if (decay != 0 && decoupled) value -= shrunk * value;  // 1 - shrunk would be rounded alike in every step
        if (decay != 0 && !decoupled) g += decay * value;
        const real mean = m[i] * beta1 + g * other1;
        real square = v[i] * beta2 + g * g * other2;
        m[i] = mean;
        v[i] = square;
        if (amsgrad) {
            square = most[i] > square || most[i] != most[i] ? most[i] : square;
            most[i] = square;
        }
        p[i] = value - mean / (sqrt(square) / root + eps) * rate;
    }
    count_on(counts + array, tickets + array);
}
