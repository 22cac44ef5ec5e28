// Sums of an array that is seen as (batch, outer, kept, inner), over outer and inner: leading axes, trailing ones, one in
// the middle, all, and axes 0, 2, 3 of images.
//
// Several threads, the partners, share a result. Where the inner axis is summed, neighbouring threads are partners, else
// they have neighbouring results: either way they read neighbouring cells. A thread asks for several elements before it
// adds up any, which hides the wait for memory; those are added in the array's precision, as a tree, and the trees in
// double precision: sums of any length keep the digits of single precision, and there are few additions in double.

#define AT_ONCE 8  // numbers that a thread waits for
#define BLOCK 256

struct View {  // results: batch * kept.  length: outer * inner.  factor, shift: for dividing by inner
    long long kept, inner, length, results, partners, along, factor, shift;
};

// Block (of results, split): to y (splits, results) the sums of each split's part of the length, over `divisor`: of x,
// or where there are two FACTORS of x times w.
template <int FACTORS, class In, class Out>
__device__ void add_up(const In *x, const In *w, Out *y, const View &view, double divisor) {
    constexpr int TERMS = AT_ONCE / FACTORS;
    __shared__ double parts[BLOCK];
    const unsigned int partners = view.partners, width = BLOCK / partners, thread = threadIdx.x;
    const unsigned int partner = view.along ? thread % partners : thread / width;
    const unsigned int place = view.along ? thread / partners : thread % width;
    const long long result = (long long)blockIdx.x * width + place;
    const unsigned int begin = view.length * blockIdx.y / gridDim.y, end = view.length * (blockIdx.y + 1) / gridDim.y;
    const unsigned int skipped = (view.kept - 1) * view.inner, factor = view.factor, shift = view.shift;
    double sum = 0;
    if (result < view.results) {
        const unsigned int first = result / view.kept * (view.length * view.kept) + result % view.kept * view.inner;
        for (unsigned int e = begin + partner; e < end; e += TERMS * partners) {
            In terms[TERMS], others[TERMS];
#pragma unroll
            for (int i = 0; i < TERMS; i++) {
                const unsigned int at = e + i * partners;
                const unsigned int line = (((unsigned long long)at * factor >> 32) + at) >> shift;  // at / inner
                const unsigned int cell = first + at + line * skipped;
                terms[i] = at < end ? x[cell] : In(0);
                if (FACTORS == 2) others[i] = at < end ? w[cell] : In(0);
            }
#pragma unroll
            for (int i = 0; FACTORS == 2 && i < TERMS; i++) terms[i] *= others[i];
#pragma unroll
            for (int half = TERMS / 2; half; half /= 2)
#pragma unroll
                for (int i = 0; i < half; i++) terms[i] += terms[i + half];
            sum += double(terms[0]);
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

extern "C" __global__ void sums(const real *x, real *y, View view, double divisor) {
    add_up<1>(x, x, y, view, divisor);
}

extern "C" __global__ void sums_of_products(const real *x, const real *w, real *y, View view) {
    add_up<2>(x, w, y, view, 1);
}

// The same in two launches, for few results of many elements.
extern "C" __global__ void part_sums(const real *x, double *y, View view) { add_up<1>(x, x, y, view, 1); }

extern "C" __global__ void part_sums_of_products(const real *x, const real *w, double *y, View view) {
    add_up<2>(x, w, y, view, 1);
}

extern "C" __global__ void sums_of_parts(const double *x, real *y, View view, double divisor) {
    add_up<1>(x, x, y, view, divisor);
}
