// CAMERAS' fusion of scales as a blocked contraction: kernels/contraction.py says what it computes.
//
// A block fuses one tile of pixels of one map over a share of the channels: it gathers the cells
// that the tile touches at every scale (at most 128), forms their Gram matrix W A^T, and sums it
// with the bilinear weights of each pixel, which are a product of one per axis.
#include <cuda_pipeline.h>

#include "gram.cuh"
#include "resampling.cuh"

constexpr int THREADS = 256;
constexpr int SCALES = 16;   // at most
constexpr int LONGEST = 32;  // longest side of a tile
constexpr int PIXELS = LONGEST * LONGEST / THREADS;  // of a thread
constexpr int MEMORY = 40960;  // bytes: two steps of both tensors, later half a matrix and the taps

// What a tile touches of one scale.
struct Window {
    int row, column;    // its first cell
    int rows, columns;  // how many there are
    int slot;           // of the first one in the tile's list
};

// A pixel's two cells along one axis, as distances in the list of the tile.
struct Tap {
    short lower, upper;
    float share;
};

static_assert(HALF * CELLS * sizeof(float) + 2 * LONGEST * SCALES * sizeof(Tap) <= MEMORY,
              "half a matrix and the taps");

// Fill in the windows of all scales and where the channels of every slot begin; return how many
// slots there are.
template <typename Element>
__device__ int list_cells(const unsigned long long* stacks, const int* grids, int scales,
                          int padded, int image, int question, int tile, int height, int width,
                          int top, int left, Window* windows, const Element** lines) {
    const int own = int(threadIdx.x);
    if (own < scales) {
        const int rows = grids[2 * own], columns = grids[2 * own + 1];
        const int bottom = min(top + tile, height) - 1, right = min(left + tile, width) - 1;
        const int row = bilinear_taps(top, rows, height).lower;
        const int column = bilinear_taps(left, columns, width).lower;
        windows[own] = {row, column, bilinear_taps(bottom, rows, height).upper - row + 1,
                        bilinear_taps(right, columns, width).upper - column + 1, 0};
    }
    __syncthreads();
    if (own == 0) {
        for (int scale = 1; scale < scales; ++scale) {
            const Window& before = windows[scale - 1];
            windows[scale].slot = before.slot + before.rows * before.columns;
        }
    }
    __syncthreads();
    for (int scale = 0; scale < scales; ++scale) {
        const Window window = windows[scale];
        const int slot = window.slot + own;
        if (own < window.rows * window.columns && slot < CELLS) {
            const int columns = grids[2 * scale + 1];
            const int cell = (window.row + own / window.columns) * columns + window.column +
                             own % window.columns;
            const size_t cells = size_t(grids[2 * scale]) * columns;
            lines[slot] = reinterpret_cast<const Element*>(stacks[scale]) +
                          (image * cells + cell) * padded;
            lines[CELLS + slot] = reinterpret_cast<const Element*>(stacks[scales + scale]) +
                                  (question * cells + cell) * padded;
        }
    }
    __syncthreads();
    const Window& last = windows[scales - 1];
    return min(last.slot + last.rows * last.columns, CELLS);
}

// Copy `STEP` channels of the listed cells of both tensors.
template <typename Gram>
__device__ void fetch(const typename Gram::Element* const* lines, typename Gram::Element* stage,
                      int cells, int channel) {
    constexpr int PIECE = 16 / int(sizeof(typename Gram::Element));
    constexpr int PIECES = Gram::STEP / PIECE;
    for (int i = int(threadIdx.x); i < 2 * CELLS * PIECES; i += THREADS) {
        const int piece = i % PIECES, line = i / PIECES;
        if (line % CELLS < cells) {
            __pipeline_memcpy_async(stage + line * Gram::PITCH + piece * PIECE,
                                    lines[line] + channel + piece * PIECE, 16);
        }
    }
    __pipeline_commit();
}

// Sum half a Gram matrix [64, 128] with the weights of one pixel, over the scales that count.
__device__ float weigh(const float* gram, int half, const Tap* rows, const Tap* columns,
                       const int* counted, int count, int y, int x) {
    float sum = 0.0f;
    for (int i = 0; i < count; ++i) {
        const Tap v = rows[counted[i] * LONGEST + y], h = columns[counted[i] * LONGEST + x];
        const int lines[4] = {v.lower + h.lower, v.lower + h.upper, v.upper + h.lower,
                              v.upper + h.upper};
        float inner[4] = {};
        for (int j = 0; j < count; ++j) {
            const Tap vt = rows[counted[j] * LONGEST + y], ht = columns[counted[j] * LONGEST + x];
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
                if (lines[corner] / HALF != half) continue;
                const float* upper = gram + lines[corner] % HALF * CELLS + vt.lower;
                const float* lower = upper + (vt.upper - vt.lower);
                const float first = upper[ht.lower] + ht.share * (upper[ht.upper] - upper[ht.lower]);
                const float last = lower[ht.lower] + ht.share * (lower[ht.upper] - lower[ht.lower]);
                inner[corner] += first + vt.share * (last - first);
            }
        }
        const float upper = inner[0] + h.share * (inner[1] - inner[0]);
        const float lower = inner[2] + h.share * (inner[3] - inner[2]);
        sum += upper + v.share * (lower - upper);
    }
    return sum;
}

template <typename Gram>
__device__ void contract(const unsigned long long* stacks, const int* grids, const int* used,
                         float* part, int scales, int padded, int questions, int tile, int height,
                         int width, int steps) {
    using Element = typename Gram::Element;
    __shared__ __align__(128) unsigned char memory[MEMORY];
    __shared__ const Element* lines[2 * CELLS];  // where each cell's activation, gradient begins
    __shared__ Window windows[SCALES];
    __shared__ int counted[SCALES], count;  // the scales that count
    const int across = (width + tile - 1) / tile;
    const int top = int(blockIdx.x) / across * tile, left = int(blockIdx.x) % across * tile;
    const int share = int(blockIdx.y), question = int(blockIdx.z);
    if (threadIdx.x == 0) {
        count = 0;
        for (int scale = 0; scale < scales; ++scale) {
            if (used[size_t(question) * scales + scale]) counted[count++] = scale;
        }
    }
    const int cells = list_cells(stacks, grids, scales, padded, question / questions, question,
                                 tile, height, width, top, left, windows, lines);

    // Two stages take turns: one is filled while the other is multiplied.
    Element* stages = reinterpret_cast<Element*>(memory);
    constexpr int STAGE = 2 * CELLS * Gram::PITCH;
    static_assert(2 * STAGE * sizeof(Element) <= MEMORY, "two stages of both tensors");
    const int first = share * steps, last = min(first + steps, padded / Gram::STEP);
    Gram gram;
    gram.clear();
    for (int i = int(threadIdx.x); i < 2 * STAGE; i += THREADS) stages[i] = Element(0.0f);
    __syncthreads();  // slots without a cell stay 0
    fetch<Gram>(lines, stages, cells, first * Gram::STEP);
    for (int step = first; step < last; ++step) {
        const Element* full = stages + (step - first) % 2 * STAGE;
        if (step + 1 < last) {
            fetch<Gram>(lines, stages + (step + 1 - first) % 2 * STAGE, cells,
                        (step + 1) * Gram::STEP);
            __pipeline_wait_prior(1);
        } else {
            __pipeline_wait_prior(0);
        }
        __syncthreads();
        gram.add(full + CELLS * Gram::PITCH, full, cells);
        __syncthreads();
    }

    float* matrix = reinterpret_cast<float*>(memory);  // [64, 128]
    Tap* rows = reinterpret_cast<Tap*>(memory + HALF * CELLS * sizeof(float));  // [scales, 32]
    Tap* columns = rows + SCALES * LONGEST;
    for (int i = int(threadIdx.x); i < 2 * scales * tile; i += THREADS) {
        const int place = i % tile, scale = i / tile % scales;
        const bool vertical = i < scales * tile;
        const Window window = windows[scale];
        const Taps taps = bilinear_taps(min((vertical ? top : left) + place,
                                            (vertical ? height : width) - 1),
                                        grids[2 * scale + (vertical ? 0 : 1)],
                                        vertical ? height : width);
        const int from = vertical ? window.row : window.column;
        const int stride = vertical ? window.columns : 1, base = vertical ? window.slot : 0;
        (vertical ? rows : columns)[scale * LONGEST + place] = {
            short(base + (taps.lower - from) * stride), short(base + (taps.upper - from) * stride),
            taps.share};
    }
    float sums[PIXELS] = {};
    for (int half = 0; half < 2; ++half) {
        gram.store(matrix, half, cells);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            const int pixel = i * THREADS + int(threadIdx.x);
            if (pixel < tile * tile && half * HALF < cells) {
                sums[i] += weigh(matrix, half, rows, columns, counted, count, pixel / tile,
                                 pixel % tile);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
        const int pixel = i * THREADS + int(threadIdx.x);
        const int y = top + pixel / tile, x = left + pixel % tile;
        if (pixel < tile * tile && y < height && x < width) {
            const size_t map = size_t(share) * gridDim.z + question;
            part[(map * height + y) * width + x] = sums[i];
        }
    }
}

// Grid: tiles of the map, shares of `steps` steps of channels, questions. A stack of activations is
// [B, cells, padded], of gradients [B * questions, cells, padded], of the element's type.
extern "C" __global__ void __launch_bounds__(THREADS) klieg_contract_f32(
    const unsigned long long* stacks,  // [2, scales] addresses of packed activations, gradients
    const int* grids,                  // [scales, 2] rows and columns of cells
    const int* used,                   // [B * questions, scales]
    float* part,                       // [shares, B * questions, height, width]
    int scales, int padded, int questions, int tile, int height, int width, int steps) {
    contract<PlainGram>(stacks, grids, used, part, scales, padded, questions, tile, height, width, steps);
}

extern "C" __global__ void __launch_bounds__(THREADS) klieg_contract_f16(
    const unsigned long long* stacks,  // [2, scales] addresses of packed activations, gradients
    const int* grids,                  // [scales, 2] rows and columns of cells
    const int* used,                   // [B * questions, scales]
    float* part,                       // [shares, B * questions, height, width]
    int scales, int padded, int questions, int tile, int height, int width, int steps) {
    contract<HalfGram>(stacks, grids, used, part, scales, padded, questions, tile, height, width, steps);
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
extern "C" __global__ void __launch_bounds__(THREADS) klieg_contract_tf32(
    const unsigned long long* stacks,  // [2, scales] addresses of packed activations, gradients
    const int* grids,                  // [scales, 2] rows and columns of cells
    const int* used,                   // [B * questions, scales]
    float* part,                       // [shares, B * questions, height, width]
    int scales, int padded, int questions, int tile, int height, int width, int steps) {
    contract<Tf32Gram>(stacks, grids, used, part, scales, padded, questions, tile, height, width, steps);
}
#endif

// Add the shares and divide by the number of counted scales, squared: both means of CAMERAS.
extern "C" __global__ void __launch_bounds__(THREADS) klieg_contract_finish(
    const float* part,  // [shares, B * questions, pixels]
    const int* used,    // [B * questions, scales]
    float* raw,         // [B * questions, pixels]
    int shares, int scales, int pixels) {
    const int question = int(blockIdx.y);
    const int pixel = int(blockIdx.x) * THREADS + int(threadIdx.x);
    int count = 0;
    for (int scale = 0; scale < scales; ++scale) count += used[question * scales + scale] != 0;
    if (pixel < pixels) {
        float sum = 0.0f;
        for (int share = 0; share < shares; ++share) {
            sum += part[(size_t(share) * gridDim.y + question) * pixels + pixel];
        }
        raw[size_t(question) * pixels + pixel] = sum / float(count * count);
    }
}
