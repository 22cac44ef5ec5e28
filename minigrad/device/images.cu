// A batch of images from a data set that lies on the device, each under its own affine map where there are maps.
// Defined by the caller: C channels, H and W.

__device__ inline float pixel(const unsigned char *plane, int row, int column) {
    return 0 <= row && row < H && 0 <= column && column < W ? float(plane[row * W + column]) : 0.0f;
}

// x[b] = table[images[order[b]]], y[b] = labels[order[b]]. maps (n, 6): what shows at q was at
// M (q - centre) + (down, right), with M in maps[b, :4]; sampled bilinearly, zeros outside, rounded to a byte.
extern "C" __global__ void batch(
    const unsigned char *images, const long long *labels, const long long *order, const float *table, const float *maps,
    float *x, long long *y, long long size) {
    const long long at = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= size) return;
    const long long b = at / (C * H * W), chosen = order[b];
    const int cell = at % (H * W), channel = at / (H * W) % C, i = cell / W, j = cell % W;
    const unsigned char *plane = images + (chosen * C + channel) * (H * W);
    if (at % (C * H * W) == 0) y[b] = labels[chosen];
    if (!maps) {
        x[at] = table[plane[cell]];
        return;
    }
    const float *m = maps + b * 6;
    const float down = i - (H - 1) / 2.0f, right = j - (W - 1) / 2.0f;
    float row = m[0] * down + m[1] * right + m[4], column = m[2] * down + m[3] * right + m[5];
    row = fminf(fmaxf(row, -1.0f), float(H));
    column = fminf(fmaxf(column, -1.0f), float(W));
    const int top = int(floorf(row)), left = int(floorf(column));
    const float v = row - top, u = column - left;
    const float upper = pixel(plane, top, left) + (pixel(plane, top, left + 1) - pixel(plane, top, left)) * u;
    const float first = pixel(plane, top + 1, left);
    const float lower = first + (pixel(plane, top + 1, left + 1) - first) * u;
    x[at] = table[int(upper + (lower - upper) * v + 0.5f)];
}
