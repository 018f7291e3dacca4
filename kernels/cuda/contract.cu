// CAMERAS' fusion of scales as a blocked contraction: kernels/contraction.py says what it computes.
//
// A block fuses one tile of pixels of one map over a share of the channels: it gathers the cells
// that the tile touches at every scale (at most 128), forms their Gram matrix W A^T, and sums it
// with the bilinear weights of each pixel.
#include <cuda_pipeline.h>

#include "gram.cuh"
#include "resampling.cuh"
#include "weighing.cuh"

constexpr int THREADS = 256;
constexpr int SCALES = 16;   // at most
constexpr int LONGEST = 32;  // longest side of a tile
constexpr int PIXELS = LONGEST * LONGEST / THREADS;  // of a thread
constexpr int COLUMNS = 64;  // of cells in a tile, all scales together, at most
constexpr int MEMORY = 44032;  // bytes: two steps of both tensors, later what is summed

// What a tile touches of one scale.
struct Window {
    int row, column;    // its first cell
    int rows, columns;  // how many there are
    int slot;           // of the first one in the tile's list
};

// A pixel of the tile.
struct Place {
    int x, y;
    __device__ Place(int pixel, int wide) : x(pixel % wide), y(pixel / wide) {}
    __device__ void advance(int wide) {  // to the thread's next one
        x += THREADS % wide;
        y += THREADS / wide;
        if (x >= wide) x -= wide, ++y;
    }
};

// The scales that count, with their columns of cells one after another.
struct Counted {
    int scales;                 // how many
    int scale[SCALES];          // which
    int first[SCALES + 1];      // column of each, and behind the last
    Column columns[COLUMNS];
};

// Fill in the windows of all scales, empty where one does not count, and where the channels of every
// slot begin; return how many slots there are.
template <typename Element>
__device__ int list_cells(const unsigned long long* stacks, const int* grids, const int* used,
                          int scales, size_t pitch, int image, int question, int tile, int height,
                          int width, int top, int left, Window* windows, const Element** lines) {
    const int own = int(threadIdx.x);
    if (own < scales) windows[own] = {};
    if (own < scales && used[own]) {
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
                          (image * cells + cell) * pitch;
            lines[CELLS + slot] = reinterpret_cast<const Element*>(stacks[scales + scale]) +
                                  (question * cells + cell) * pitch;
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
    const int piece = int(threadIdx.x % PIECES) * PIECE, own = int(threadIdx.x / PIECES);
    stage += own * Gram::PITCH + piece;
#pragma unroll
    for (int first = 0; first < 2 * CELLS; first += THREADS / PIECES) {
        if (own + first % CELLS < cells) {
            __pipeline_memcpy_async(stage + first * Gram::PITCH,
                                    lines[own + first] + channel + piece, 16);
        }
    }
    __pipeline_commit();
}

// Sum the tile's Gram matrix over a share of the channels.
template <typename Gram>
__device__ void multiply(Gram& gram, const typename Gram::Element* const* lines,
                         typename Gram::Element* stages, int cells, int first, int last) {
    constexpr int STAGE = 2 * CELLS * Gram::PITCH;  // two take turns: filled and multiplied
    constexpr int PIECES = 2 * STAGE * int(sizeof(typename Gram::Element)) / 16;
    static_assert(16 * PIECES <= MEMORY && PIECES % THREADS == 0, "two stages, zeroed in pieces");
#pragma unroll
    for (int i = 0; i < PIECES; i += THREADS) {
        reinterpret_cast<float4*>(stages)[i + threadIdx.x] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    __syncthreads();  // slots without a cell stay 0
    fetch<Gram>(lines, stages, cells, first * Gram::STEP);
    for (int step = first; step < last; ++step) {
        const typename Gram::Element* full = stages + (step - first) % 2 * STAGE;
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
}

// List the columns of the scales that count.
__device__ inline void list_columns(const int* used, int scales, const Window* windows,
                                    Counted& counted) {
    if (threadIdx.x == 0) {
        int count = 0, column = 0;
        for (int scale = 0; scale < scales; ++scale) {
            if (!used[scale]) continue;
            counted.scale[count] = scale;
            counted.first[count] = column;
            for (int i = 0; i < windows[scale].columns && column < COLUMNS; ++i) {
                counted.columns[column++] = {short(count), short(i)};
            }
            ++count;
        }
        counted.scales = count;
        counted.first[count] = column;
    }
    __syncthreads();
}

template <typename Gram>
__device__ void contract(const unsigned long long* stacks, const int* grids, const int* used,
                         float* part, int scales, int padded, int questions, int tile, int height,
                         int width, int steps) {
    using Element = typename Gram::Element;
    constexpr int TAIL = 32 / int(sizeof(Element));  // behind a row: pack.cu
    __shared__ __align__(128) unsigned char memory[MEMORY];
    __shared__ const Element* lines[2 * CELLS];  // where each cell's activation, gradient begins
    __shared__ Window windows[SCALES];
    __shared__ Counted counted;
    const int across = (width + tile - 1) / tile;
    const int top = int(blockIdx.x) / across * tile, left = int(blockIdx.x) % across * tile;
    const int share = int(blockIdx.y), question = int(blockIdx.z);
    used += size_t(question) * scales;
    const int cells = list_cells(stacks, grids, used, scales, size_t(padded) + TAIL,
                                 question / questions, question, tile, height, width, top, left,
                                 windows, lines);
    list_columns(used, scales, windows, counted);

    Gram gram;
    gram.clear();
    multiply(gram, lines, reinterpret_cast<Element*>(memory), cells, share * steps,
             min((share + 1) * steps, padded / Gram::STEP));

    float* band = reinterpret_cast<float*>(memory);  // [BAND, ROW] of gradients, activations
    float* units = band + BAND * ROW;                // [2, 128] of activations, gradients
    Tap* down = reinterpret_cast<Tap*>(units + 2 * CELLS);  // [scales that count, tile]
    Tap* right = down + counted.scales * tile;              // likewise
    float* narrow = reinterpret_cast<float*>(right + counted.scales * tile);
    const int room = (MEMORY - int(reinterpret_cast<unsigned char*>(narrow) - memory)) / 4;
    for (int i = int(threadIdx.x); i < 2 * CELLS; i += THREADS) {
        if (i % CELLS < cells) units[i] = *reinterpret_cast<const float*>(lines[i] + padded);
    }
    for (int i = int(threadIdx.x); i < 2 * counted.scales * tile; i += THREADS) {
        const int place = i % tile, number = i / tile % counted.scales;
        const int scale = counted.scale[number];
        const Window window = windows[scale];
        const bool vertical = i < counted.scales * tile;
        const Taps taps = bilinear_taps(min((vertical ? top : left) + place,
                                            (vertical ? height : width) - 1),
                                        grids[2 * scale + (vertical ? 0 : 1)],
                                        vertical ? height : width);
        const int from = vertical ? window.row : window.column;
        const int stride = vertical ? window.columns : 1;
        const int base = vertical ? window.slot : counted.first[number];
        (vertical ? down : right)[number * tile + place] = {
            short(base + (taps.lower - from) * stride), short(base + (taps.upper - from) * stride),
            taps.share};
    }

    float sums[PIXELS] = {};
    const int high = min(tile, height - top), wide = min(tile, width - left);
    const int columns = counted.first[counted.scales];
#pragma unroll 1
    for (int first = 0; first < cells; first += BAND) {
        gram.store(band, first / BAND);
        __syncthreads();
        scale_band(band, units, first, cells);
        int scale = counted.scales, last = 0;  // those with a cell in this band
#pragma unroll 1
        for (int i = 0; i < counted.scales; ++i) {
            const Window& window = windows[counted.scale[i]];
            if (window.slot < first + BAND && window.slot + window.rows * window.columns > first) {
                scale = min(scale, i);
                last = i + 1;
            }
        }
        const int from = counted.first[scale], to = counted.first[last];
        const int turns = (high - 1) / (room / ((to - from) * columns)) + 1;
        const int most = (high - 1) / turns + 1;  // rows of pixels in a turn
        __syncthreads();
#pragma unroll 1
        for (int y = 0; y < high; y += most) {
            const int rows = min(most, high - y);
            Place pixel(int(threadIdx.x), wide);
            sum_rows(band, first, counted.columns, columns, from, to, down, tile, y, rows, narrow);
            __syncthreads();
#pragma unroll
            for (int i = 0; i < PIXELS; ++i, pixel.advance(wide)) {
                const int row = pixel.y - y;
                if (row >= 0 && row < rows) {
                    sums[i] += sum_columns(narrow + row * (to - from) * columns, columns, from,
                                           right, tile, pixel.x, scale, last, counted.scales);
                }
            }
            __syncthreads();
        }
    }
    Place pixel(int(threadIdx.x), wide);
    part += (size_t(share) * gridDim.z + question) * height * width;
#pragma unroll
    for (int i = 0; i < PIXELS; ++i, pixel.advance(wide)) {
        if (pixel.y < high) part[size_t(top + pixel.y) * width + left + pixel.x] = sums[i];
    }
}

// Grid: tiles of the map, shares of `steps` steps of channels, questions. pack.cu makes the stacks: of
// activations [B, cells, ...], of gradients [B * questions, cells, ...].
extern "C" __global__ void __launch_bounds__(THREADS) klieg_contract_f32(
    const unsigned long long* stacks,  // [2, scales] addresses of packed activations, gradients
    const int* grids,                  // [scales, 2] rows and columns of cells
    const int* used,                   // [B * questions, scales]
    float* part,                       // [shares, B * questions, height, width]
    int scales, int padded, int questions, int tile, int height, int width, int steps) {
    contract<PlainGram>(stacks, grids, used, part, scales, padded, questions, tile, height, width,
                        steps);
}

extern "C" __global__ void __launch_bounds__(THREADS) klieg_contract_f16(
    const unsigned long long* stacks,  // [2, scales] addresses of packed activations, gradients
    const int* grids,                  // [scales, 2] rows and columns of cells
    const int* used,                   // [B * questions, scales]
    float* part,                       // [shares, B * questions, height, width]
    int scales, int padded, int questions, int tile, int height, int width, int steps) {
    contract<TensorGram>(stacks, grids, used, part, scales, padded, questions, tile, height, width,
                         steps);
}

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
