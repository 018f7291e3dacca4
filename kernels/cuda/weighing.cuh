// Sums of a Gram matrix with the bilinear weights of a tile's pixels: the map.
//
// A pixel's weights are a product of one per axis. Rows are summed first, for a row of pixels at a
// time, which leaves a matrix of columns of cells; a pixel then reads four numbers per pair of scales.
// Only scales that count have columns and taps.
#pragma once

// A pixel's two cells along one axis. Down: the slots of their first columns; across: the numbers of
// their columns.
struct Tap {
    short lower, upper;
    float share;
};

// A column of cells.
struct Column {
    short scale;   // which of those that count
    short offset;  // from the first column of that scale
};

constexpr int WARPS = 8;  // of a block
constexpr int TEAM = 2;   // warps that share a row of pixels

// Multiply a band of the Gram matrix, of gradients from `first` on, by its cells' units.
__device__ inline void scale_band(float* band, const float* units, int first, int cells) {
    const int column = int(threadIdx.x % CELLS), above = int(threadIdx.x / CELLS);
    if (column >= cells) return;
    const float own = units[column];
    const float* others = units + CELLS + first + above;
    float* cell = band + above * ROW + column;
#pragma unroll
    for (int row = 0; row < BAND; row += 32 * WARPS / CELLS) {
        if (first + above + row < cells) cell[row * ROW] = cell[row * ROW] * own * others[row];
    }
}

// narrow[y, w, a] for columns of gradients w from `from` up to `to` and all columns of activations a,
// of `rows` rows of pixels. `band` [BAND, ROW] holds slots of gradients from `first` on.
__device__ inline void sum_rows(const float* band, int first, const Column* columns, int count,
                                int from, int to, const Tap* taps, int tile, int top, int rows,
                                float* narrow) {
    const int lane = int(threadIdx.x % 32), warp = int(threadIdx.x / 32);
#pragma unroll 1
    for (int i = lane; i < count; i += 32) {
        const Column other = columns[i];
#pragma unroll 1
        for (int y = warp / TEAM; y < rows; y += WARPS / TEAM) {
            const Tap tap = taps[other.scale * tile + top + y];
            const float* left = band + tap.lower + other.offset;
            const float* right = band + tap.upper + other.offset;
#pragma unroll 1
            for (int w = from + warp % TEAM; w < to; w += TEAM) {
                const Column own = columns[w];
                const Tap down = taps[own.scale * tile + top + y];
                const int lower = down.lower + own.offset - first;
                const int upper = down.upper + own.offset - first;
                float sum = 0.0f;
                if (lower >= 0 && lower < BAND) {
                    const float a = left[lower * ROW], b = right[lower * ROW];
                    sum += (1.0f - down.share) * (a + tap.share * (b - a));
                }
                if (upper >= 0 && upper < BAND) {
                    const float a = left[upper * ROW], b = right[upper * ROW];
                    sum += down.share * (a + tap.share * (b - a));
                }
                narrow[(y * (to - from) + w - from) * count + i] = sum;
            }
        }
    }
}

// The sum of narrow[y], [to - from, count], with the weights of pixel x: gradients of scales
// `scale` up to `last`, activations of all `scales`.
__device__ inline float sum_columns(const float* narrow, int count, int from, const Tap* taps,
                                    int tile, int x, int scale, int last, int scales) {
    float sum = 0.0f;
#pragma unroll 1
    for (; scale < last; ++scale) {
        const Tap own = taps[scale * tile + x];
        const float* left = narrow + (own.lower - from) * count;
        const float* right = narrow + (own.upper - from) * count;
        float lower = 0.0f, upper = 0.0f;
#pragma unroll 1
        for (int other = 0; other < scales; ++other) {
            const Tap tap = taps[other * tile + x];
            lower += left[tap.lower] + tap.share * (left[tap.upper] - left[tap.lower]);
            upper += right[tap.lower] + tap.share * (right[tap.upper] - right[tap.lower]);
        }
        sum += lower + own.share * (upper - lower);
    }
    return sum;
}
