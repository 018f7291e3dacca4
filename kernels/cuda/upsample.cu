// Masks of a coarse grid brought to the pixels of an image, with an optional sigmoid of the cells.
//
// The sigmoid comes before the enlargement, as in klieg.training.model.masker: masks are blended, not
// their logits. A block makes ROWS rows by `columns` columns of one mask, as in pyramid.cu: first
// every warp blends the two rows of cells of its rows of pixels into shared memory, and every thread
// finds the taps of a column; then it keeps those of four neighbouring columns and walks down the rows.
#include <cuda_fp16.h>

#include "resampling.cuh"

constexpr int THREADS = 256;
constexpr int LANES = 32;  // threads that read one row of cells together
constexpr int ROWS = 16;   // strips.py has the same number
constexpr int GROUP = 4;   // columns per thread

__device__ inline float number(float cell) { return cell; }
__device__ inline float number(__half cell) { return __half2float(cell); }

template <typename Cell>
__device__ inline float value(Cell cell, int sigmoid) {
    const float plain = number(cell);
    return sigmoid ? __fdividef(1.0f, 1.0f + __expf(-plain)) : plain;
}

// One step of a linear blend. As share < 1, rounding never takes it out of the two values' range.
__device__ inline float blend(float lower, float upper, float share) {
    return lower + share * (upper - lower);
}

// torch's rule in torch's own float32 steps. Two whole numbers' quotient would be another cell at
// sizes such as 2 to 82, and exported files, which repeat those steps too, would disagree.
__device__ inline int nearest_cell(int pixel, int cells, int pixels) {
    return min(int(floorf(float(pixel) * (float(cells) / float(pixels)))), cells - 1);
}

template <bool NEAREST>
__device__ inline Taps taps_of(int pixel, int cells, int pixels) {
    if (!NEAREST) return bilinear_taps(pixel, cells, pixels);
    const int cell = nearest_cell(pixel, cells, pixels);
    return {cell, cell, 0.0f};
}

// Divides the grid: x is (mask, strip of rows), y the strip of columns.
template <bool NEAREST, typename Cell>
__device__ void upsample(const Cell* masks, float* enlarged, int h, int w, int height, int width,
                         int columns, int pitch, int whole_groups, int sigmoid) {
    extern __shared__ __align__(16) unsigned char klieg_shared[];
    float* blended = reinterpret_cast<float*>(klieg_shared);         // [ROWS, pitch]
    Taps* all_taps = reinterpret_cast<Taps*>(blended + ROWS * pitch);  // [columns]
    const int strips = (height + ROWS - 1) / ROWS, mask = int(blockIdx.x) / strips;
    const int first_row = int(blockIdx.x) % strips * ROWS, rows = min(ROWS, height - first_row);
    const int first_column = int(blockIdx.y) * columns;
    columns = min(columns, width - first_column);
    const int first_cell = taps_of<NEAREST>(first_column, w, width).lower;
    const int last_cell = taps_of<NEAREST>(first_column + columns - 1, w, width).upper;

    const Cell* cells = masks + size_t(mask) * h * w;
    for (int row = int(threadIdx.x) / LANES; row < rows; row += THREADS / LANES) {
        const Taps vertical = taps_of<NEAREST>(first_row + row, h, height);
        const Cell* above = cells + size_t(vertical.lower) * w;
        const Cell* below = cells + size_t(vertical.upper) * w;
        for (int cell = first_cell + int(threadIdx.x) % LANES; cell <= last_cell; cell += LANES) {
            const float lower = value(above[cell], sigmoid);
            blended[row * pitch + cell - first_cell] =
                NEAREST ? lower : blend(lower, value(below[cell], sigmoid), vertical.share);
        }
    }
    for (int i = int(threadIdx.x); i < columns; i += THREADS) {
        const Taps found = taps_of<NEAREST>(first_column + i, w, width);
        all_taps[i] = {found.lower - first_cell, found.upper - first_cell, found.share};
    }
    __syncthreads();

    const int groups = (columns + GROUP - 1) / GROUP;
    const int column = int(threadIdx.x) % groups * GROUP;
    Taps taps[GROUP];
    for (int i = 0; i < GROUP; ++i) taps[i] = all_taps[min(column + i, columns - 1)];
    // The last threads are idle where the groups do not divide them: they would repeat rows.
    const int step = THREADS / groups;
    const int first = int(threadIdx.x) / groups;
    for (int row = first < step ? first : rows; row < rows; row += step) {
        const float* line = blended + row * pitch;
        float made[GROUP];
        for (int i = 0; i < GROUP; ++i) {
            made[i] = NEAREST ? line[taps[i].lower]
                              : blend(line[taps[i].lower], line[taps[i].upper], taps[i].share);
        }
        float* place = enlarged + (size_t(mask) * height + first_row + row) * width +
                       first_column + column;
        if (whole_groups) {
            *reinterpret_cast<float4*>(place) = {made[0], made[1], made[2], made[3]};
        } else {
            for (int i = 0; i < GROUP; ++i)
                if (column + i < columns) place[i] = made[i];
        }
    }
}

#define KLIEG_UPSAMPLE(NAME, NEAREST, CELL)                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                                    \
        const CELL* masks,  /* [N, h, w] */                                                        \
        float* enlarged,    /* [N, height, width] */                                               \
        int h, int w, int height, int width,                                                       \
        int columns,        /* of one block, 1..4 * THREADS */                                     \
        int pitch,          /* cells of a row in shared memory: [ROWS, pitch] float, then taps */  \
        int whole_groups,   /* 1 if every four columns are aligned and complete */                 \
        int sigmoid) {      /* 1 for the sigmoid of the cells, 0 for the cells */                  \
        upsample<NEAREST>(masks, enlarged, h, w, height, width, columns, pitch, whole_groups,      \
                          sigmoid);                                                                \
    }

KLIEG_UPSAMPLE(klieg_upsample_nearest_f32, true, float)
KLIEG_UPSAMPLE(klieg_upsample_nearest_f16, true, __half)
KLIEG_UPSAMPLE(klieg_upsample_bilinear_f32, false, float)
KLIEG_UPSAMPLE(klieg_upsample_bilinear_f16, false, __half)
