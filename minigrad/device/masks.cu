// Masks of dropout from a counter: the number at a place is a hash of (key, count of draws, place), so that nothing
// but the count has to be remembered, and a replayed launch draws new numbers by counting on.

// A mix of 64 bits in which every bit of the input moves every bit of the output (Steele, Lea and Flood, 2014).
__device__ inline unsigned long long mixed(unsigned long long z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

// ones with probability p, zeros otherwise, to y. state: the key and the count of draws; tickets: how many blocks
// have read it.
extern "C" __global__ void bernoulli(real *y, double p, long long *state, unsigned int *tickets, long long size) {
    const unsigned long long step = 0x9e3779b97f4a7c15ull, stride = (unsigned long long)gridDim.x * blockDim.x;
    const unsigned long long stream = mixed(mixed(state[0]) + state[1] * step);
    for (unsigned long long i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += stride)
        y[i] = double(mixed(stream + (i + 1) * step) >> 40) * 0x1p-24 < p;
    __syncthreads();
    if (threadIdx.x == 0 && atomicAdd(tickets, 1u) == gridDim.x - 1) {
        *tickets = 0;
        state[1] += 1;
    }
}
