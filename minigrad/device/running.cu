// A BatchNorm's running statistics, moved towards the batch's mean and biased variance. momentum weighs the new value;
// below 0 it is 1 / the count of batches, a mean of all of them. unbiased: m / (m - 1) for m values a channel. One block.
extern "C" __global__ void remember(
    const real *mean, const real *var, real *running_mean, real *running_var, long long *tracked, long long channels,
    double unbiased, double momentum) {
    const double f = momentum < 0 ? 1 / double(*tracked + 1) : momentum;
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        running_mean[c] = (1 - f) * running_mean[c] + f * mean[c];
        running_var[c] = (1 - f) * running_var[c] + f * unbiased * var[c];
    }
    __syncthreads();
    if (threadIdx.x == 0) *tracked += 1;
}
