// Cross entropy of scores (n, classes) and labels (n,): the mean over the labels that are not `ignored`.
// Defined by the caller: LABEL, the type of labels.

#define LARGEST 1024  // threads of a block, of which there is a power of two

// Adds up three numbers of each thread; all threads have the sums.
__device__ void block_sum(double &a, double &b, double &c) {
    __shared__ double parts[3][LARGEST];
    parts[0][threadIdx.x] = a;
    parts[1][threadIdx.x] = b;
    parts[2][threadIdx.x] = c;
    for (int half = blockDim.x / 2; half; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            for (int i = 0; i < 3; i++) parts[i][threadIdx.x] += parts[i][threadIdx.x + half];
    }
    __syncthreads();
    a = parts[0][0];
    b = parts[1][0];
    c = parts[2][0];
}

// One block: loss, the log of the sum of exp of each row, how many labels count, and whether all are fine.
extern "C" __global__ void __launch_bounds__(LARGEST, 1) cross_entropy(
    const real *x, const LABEL *labels, real *loss, real *logs, real *counted, bool *fine, long long n,
    long long classes, long long ignored) {
    double sum = 0, count = 0, bad = 0;
    for (long long row = threadIdx.x; row < n; row += blockDim.x) {
        const real *scores = x + row * classes;
        real most = scores[0];
#pragma unroll 8
        for (int c = 1; c < classes; c++) most = scores[c] > most || scores[c] != scores[c] ? scores[c] : most;
        real total = 0;
#pragma unroll 8
        for (int c = 0; c < classes; c++) total += exp(scores[c] - most);
        const real rest = log(total);
        logs[row * 2] = most;
        logs[row * 2 + 1] = rest;
        const long long wanted = labels[row];
        if (wanted == ignored) continue;
        if (wanted < 0 || wanted >= classes) {
            bad += 1;
            continue;
        }
        count += 1;
        sum += double(rest) - (double(scores[wanted]) - double(most));
    }
    block_sum(sum, count, bad);
    if (threadIdx.x == 0) {
        *loss = sum / count;
        *counted = count;
        *fine = bad == 0;
    }
}

// dx = g (softmax(x) - one_hot(label)) / counted, 0 in the rows that do not count.
extern "C" __global__ void cross_entropy_pullback(
    const real *g, const real *x, const LABEL *labels, const real *logs, const real *counted, real *dx, long long n,
    long long classes, long long ignored) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= n * classes) return;
    const long long row = at / classes, wanted = labels[row];
    const real p = exp((x[at] - logs[row * 2]) - logs[row * 2 + 1]);
    const bool counts = wanted != ignored && wanted >= 0 && wanted < classes;
    dx[at] = counts ? *g * (p - real(at % classes == wanted)) / *counted : real(0);
}
