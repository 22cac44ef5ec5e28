// Sums of an array that is seen as (batch, outer, kept, inner), over outer and inner: leading axes, trailing ones, one in
// the middle, all, and axes 0, 2, 3 of images.
//
// Several threads, the partners, share a result. Where the inner axis is summed, neighbouring threads are partners, else
// they have neighbouring results: either way they read neighbouring cells. A thread asks for AT_ONCE elements before it
// adds up any, which hides the wait for memory; those are added in the array's precision, as a tree, and the trees in
// double precision: sums of any length keep the digits of single precision, and there are few additions in double.

#define AT_ONCE 8
#define BLOCK 256

struct View {  // results: batch * kept.  length: outer * inner.  factor, shift: for dividing by inner
    long long kept, inner, length, results, partners, along, factor, shift;
};

// Block (of results, split): to y (splits, results) the sums of each split's part of the length, over `divisor`.
template <class In, class Out>
__device__ void add_up(const In *x, Out *y, const View &view, double divisor) {
    __shared__ double parts[BLOCK];
    const unsigned int partners = view.partners, width = BLOCK / partners, thread = threadIdx.x;
    const unsigned int partner = view.along ? thread % partners : thread / width;
    const unsigned int place = view.along ? thread / partners : thread % width;
    const long long result = (long long)blockIdx.x * width + place;
    const unsigned int begin = view.length * blockIdx.y / gridDim.y, end = view.length * (blockIdx.y + 1) / gridDim.y;
    const unsigned int skipped = (view.kept - 1) * view.inner, factor = view.factor, shift = view.shift;
    double sum = 0;
    if (result < view.results) {
        const In *first = x + result / view.kept * (view.length * view.kept) + result % view.kept * view.inner;
        for (unsigned int e = begin + partner; e < end; e += AT_ONCE * partners) {
            In some[AT_ONCE];
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++) {
                const unsigned int at = e + i * partners;
                const unsigned int line = (((unsigned long long)at * factor >> 32) + at) >> shift;  // at / inner
                some[i] = at < end ? first[at + line * skipped] : In(0);
            }
#pragma unroll
            for (int half = AT_ONCE / 2; half; half /= 2)
#pragma unroll
                for (int i = 0; i < half; i++) some[i] += some[i + half];
            sum += double(some[0]);
        }
    }
    const unsigned int mine = partner * width + place;
    parts[mine] = sum;
    for (unsigned int half = partners / 2; half; half /= 2) {
        __syncthreads();
        if (partner < half) parts[mine] += parts[mine + half * width];
    }
    if (partner == 0 && result < view.results) y[blockIdx.y * view.results + result] = Out(parts[mine] / divisor);
}

extern "C" __global__ void sums(const real *x, real *y, View view, double divisor) { add_up(x, y, view, divisor); }

// The same in two launches, for few results of many elements.
extern "C" __global__ void part_sums(const real *x, double *y, View view, double divisor) {
    add_up(x, y, view, divisor);
}
extern "C" __global__ void sums_of_parts(const double *x, real *y, View view, double divisor) {
    add_up(x, y, view, divisor);
}
