// Bicubic resampling of a batch to one size, with normalisation: a = -3/4, half-pixel centres, the
// border repeated, no antialiasing.
//
// A block makes ROWS rows by `columns` columns of one channel of one image. First every warp blends
// the four source rows of its output rows into shared memory; then every thread keeps the weights of
// four neighbouring columns and walks down the rows.
#include <cuda_fp16.h>

#include "resampling.cuh"

constexpr int THREADS = 256;
constexpr int LANES = 32;  // threads that read one source row together
constexpr int ROWS = 16;   // strips.py has the same number
constexpr int GROUP = 4;   // columns per thread

template <typename Number>
struct __align__(GROUP * sizeof(Number)) Group {
    Number values[GROUP];
};

__device__ inline void round_to(float value, float& result) { result = value; }
__device__ inline void round_to(float value, __half& result) { result = __float2half(value); }

// Weights of the cells cell - 1 .. cell + 2 in bicubic resampling, a = -3/4.
__device__ inline void bicubic_weights(float share, float weights[4]) {
    const float a = -0.75f, rest = 1.0f - share;
    weights[0] = a * share * rest * rest;
    weights[1] = 1.0f - share * share * (a + 3.0f - (a + 2.0f) * share);
    weights[2] = 1.0f - rest * rest * (a + 3.0f - (a + 2.0f) * rest);
    weights[3] = a * share * share * rest;
}

__device__ inline int clamped(int cell, int cells) {
    return cell < 0 ? 0 : cell < cells ? cell : cells - 1;
}

template <typename Source, typename Result>
__device__ void resample(const Source* source, size_t row_step, int column_step, float scale,
                         float shift, Result* result, int cells, int pixels, int first_row,
                         int first_column, int columns, int pitch, int whole_groups) {
    extern __shared__ __align__(16) unsigned char klieg_shared[];
    float* blended = reinterpret_cast<float*>(klieg_shared);  // [ROWS, pitch]
    const int rows = min(ROWS, pixels - first_row);
    columns = min(columns, pixels - first_column);
    const int first_cell = position(first_column, cells, pixels).cell - 1;
    const int last_cell = position(first_column + columns - 1, cells, pixels).cell + 2;

    float weights[GROUP][4];
    for (int row = int(threadIdx.x) / LANES; row < rows; row += THREADS / LANES) {
        const Position at = position(first_row + row, cells, pixels);
        bicubic_weights(at.share, weights[0]);
        const Source* lines[4];
        for (int tap = 0; tap < 4; ++tap)
            lines[tap] = source + clamped(at.cell - 1 + tap, cells) * row_step;
        for (int cell = first_cell + int(threadIdx.x) % LANES; cell <= last_cell; cell += LANES) {
            const int offset = clamped(cell, cells) * column_step;
            float sum = 0.0f;
            for (int tap = 0; tap < 4; ++tap) sum += weights[0][tap] * float(lines[tap][offset]);
            blended[row * pitch + cell - first_cell] = sum;
        }
    }
    __syncthreads();

    const int groups = (columns + GROUP - 1) / GROUP;
    const int column = int(threadIdx.x) % groups * GROUP;
    int taps[GROUP];
    for (int i = 0; i < GROUP; ++i) {
        const int own = first_column + min(column + i, columns - 1);  // the last one again
        const Position at = position(min(own, pixels - 1), cells, pixels);
        bicubic_weights(at.share, weights[i]);
        taps[i] = at.cell - 1 - first_cell;
    }
    // The last threads are idle where the groups do not divide them: they would repeat rows.
    const int step = THREADS / groups;
    const int first = int(threadIdx.x) / groups;
    for (int row = first < step ? first : rows; row < rows; row += step) {
        Group<Result> made;
        for (int i = 0; i < GROUP; ++i) {
            const float* line = blended + row * pitch + taps[i];
            float sum = 0.0f;
            for (int tap = 0; tap < 4; ++tap) sum += weights[i][tap] * line[tap];
            round_to(sum * scale + shift, made.values[i]);
        }
        Result* place = result + size_t(first_row + row) * pixels + first_column + column;
        if (whole_groups) {
            *reinterpret_cast<Group<Result>*>(place) = made;
        } else {
            for (int i = 0; i < GROUP; ++i)
                if (column + i < columns) place[i] = made.values[i];
        }
    }
}

// Divides the grid: x is (image, channel, strip of rows), y the strip of columns.
template <bool INTERLEAVED, typename Source, typename Result>
__device__ void pyramid(const Source* images, const float* scale, const float* shift,
                        Result* resampled, int cells, int pixels, int channels, int columns,
                        int pitch, int whole_groups) {
    const int strips = (pixels + ROWS - 1) / ROWS;
    const int plane = int(blockIdx.x) / strips;
    const int channel = plane % channels;
    const size_t area = size_t(cells) * cells;
    const Source* source =
        INTERLEAVED ? images + plane / channels * area * channels + channel : images + plane * area;
    const int column_step = INTERLEAVED ? channels : 1;
    resample(source, size_t(cells) * column_step, column_step,
             scale == nullptr ? 1.0f : scale[channel], shift == nullptr ? 0.0f : shift[channel],
             resampled + size_t(plane) * pixels * pixels, cells, pixels,
             int(blockIdx.x) % strips * ROWS, int(blockIdx.y) * columns, columns, pitch,
             whole_groups);
}

#define KLIEG_PYRAMID(NAME, INTERLEAVED, SOURCE, RESULT)                                           \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                                    \
        const SOURCE* images,  /* [B, S, S, C] if interleaved, else [B, C, S, S]; 0..255 */        \
        const float* scale,    /* [C] or null for 1 */                                             \
        const float* shift,    /* [C] or null for 0 */                                             \
        RESULT* resampled,     /* [B, C, size, size] = value * scale + shift */                    \
        int cells,             /* S */                                                             \
        int pixels,            /* size */                                                          \
        int channels,          /* C */                                                             \
        int columns,           /* of one block, 1..4 * THREADS */                                  \
        int pitch,             /* cells of a row in shared memory, [ROWS, pitch] float */          \
        int whole_groups) {  /* 1 if every four columns are aligned and complete */              \
        pyramid<INTERLEAVED>(images, scale, shift, resampled, cells, pixels, channels, columns,    \
                             pitch, whole_groups);                                               \
    }

KLIEG_PYRAMID(klieg_pyramid_u8_f32, true, unsigned char, float)
KLIEG_PYRAMID(klieg_pyramid_u8_f16, true, unsigned char, __half)
KLIEG_PYRAMID(klieg_pyramid_f32_f32, false, float, float)
KLIEG_PYRAMID(klieg_pyramid_f32_f16, false, float, __half)
