// Masks of a coarse grid brought to the pixels of an image, with an optional sigmoid of the cells.
//
// The sigmoid comes before the enlargement, as in klieg.training.masker: masks are blended, not
// their logits.
#include <cuda_fp16.h>

#include "resampling.cuh"

constexpr int THREADS = 256;

__device__ inline float number(float cell) { return cell; }
__device__ inline float number(__half cell) { return __half2float(cell); }

template <typename Cell>
__device__ inline float value(Cell cell, int sigmoid) {
    const float plain = number(cell);
    return sigmoid ? 1.0f / (1.0f + expf(-plain)) : plain;
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

// Divides the grid: x is (mask, row), y the strip of THREADS columns.
template <bool NEAREST, typename Cell>
__device__ void upsample(const Cell* masks, float* enlarged, int h, int w, int height, int width,
                         int sigmoid) {
    const int mask = int(blockIdx.x) / height;
    const int row = int(blockIdx.x) % height;
    const int column = int(blockIdx.y * THREADS + threadIdx.x);
    if (column >= width) return;
    const Cell* cells = masks + size_t(mask) * h * w;
    float result;
    if (NEAREST) {
        const size_t line = size_t(nearest_cell(row, h, height)) * w;
        result = value(cells[line + nearest_cell(column, w, width)], sigmoid);
    } else {
        const Taps vertical = bilinear_taps(row, h, height);
        const Taps horizontal = bilinear_taps(column, w, width);
        const Cell* above = cells + size_t(vertical.lower) * w;
        const Cell* below = cells + size_t(vertical.upper) * w;
        const float left = blend(value(above[horizontal.lower], sigmoid),
                                 value(below[horizontal.lower], sigmoid), vertical.share);
        const float right = blend(value(above[horizontal.upper], sigmoid),
                                  value(below[horizontal.upper], sigmoid), vertical.share);
        result = blend(left, right, horizontal.share);
    }
    enlarged[size_t(blockIdx.x) * width + column] = result;
}

#define KLIEG_UPSAMPLE(NAME, NEAREST, CELL)                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                                    \
        const CELL* masks,  /* [N, h, w] */                                                        \
        float* enlarged,    /* [N, height, width] */                                               \
        int h, int w, int height, int width,                                                       \
        int sigmoid) {      /* 1 for the sigmoid of the cells, 0 for the cells */                  \
        upsample<NEAREST>(masks, enlarged, h, w, height, width, sigmoid);                          \
    }

KLIEG_UPSAMPLE(klieg_upsample_nearest_f32, true, float)
KLIEG_UPSAMPLE(klieg_upsample_nearest_f16, true, __half)
KLIEG_UPSAMPLE(klieg_upsample_bilinear_f32, false, float)
KLIEG_UPSAMPLE(klieg_upsample_bilinear_f16, false, __half)
