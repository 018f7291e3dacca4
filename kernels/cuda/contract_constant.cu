// The contraction where the gradient is the same everywhere, as behind a global average pool: the
// channels are summed before the enlargement. Every activation is read once.
#include <cuda_fp16.h>

#include "resampling.cuh"

constexpr int THREADS = 256;
constexpr int LANES = 32;               // cells of a block
constexpr int SLICES = THREADS / LANES;  // that share the channels of a block
constexpr int CHANNELS = 256;           // of a block

__device__ inline float as_float(float value) { return value; }
__device__ inline float as_float(__half value) { return __half2float(value); }

template <typename T>
__device__ void dots(const T* activation, const unsigned long long* gradients, const int* used,
                     float* part, int channels, int cells, int offset, int total, int scales,
                     int questions) {
    __shared__ float mean[CHANNELS];  // of the counted scales' gradients
    __shared__ float sums[SLICES][LANES];
    const int question = int(blockIdx.z), first = int(blockIdx.y) * CHANNELS;
    const int lane = int(threadIdx.x) % LANES, slice = int(threadIdx.x) / LANES;
    const int own = first + int(threadIdx.x);
    float sum = 0.0f;
    int count = 0;
    for (int scale = 0; scale < scales; ++scale) {
        if (!used[size_t(question) * scales + scale]) continue;
        ++count;
        if (own < channels) {
            const T* gradient = reinterpret_cast<const T*>(gradients[scale]);
            sum += as_float(gradient[size_t(question) * channels + own]);
        }
    }
    mean[threadIdx.x] = sum / float(count);
    __syncthreads();

    const int cell = int(blockIdx.x) * LANES + lane;
    const T* image = activation + size_t(question / questions) * channels * cells;
    sum = 0.0f;
    if (cell < cells) {
#pragma unroll 8
        for (int k = slice; k < min(CHANNELS, channels - first); k += SLICES) {
            sum = fmaf(mean[k], as_float(image[size_t(first + k) * cells + cell]), sum);
        }
    }
    sums[slice][lane] = sum;
    __syncthreads();
    if (slice == 0 && cell < cells) {
        for (int i = 1; i < SLICES; ++i) sum += sums[i][lane];
        part[(size_t(blockIdx.y) * gridDim.z + question) * total + offset + cell] = sum;
    }
}

// Grid: cells / 32, channels / 256, questions. The products of one scale.
extern "C" __global__ void __launch_bounds__(THREADS) klieg_contract_constant_f32(
    const float* activation,  // [B, channels, cells]
    const unsigned long long* gradients,  // [scales] addresses of [B * questions, channels]
    const int* used,          // [B * questions, scales]
    float* part,              // [channels / 256, B * questions, total], offset .. are written
    int channels, int cells, int offset, int total, int scales, int questions) {
    dots(activation, gradients, used, part, channels, cells, offset, total, scales, questions);
}

extern "C" __global__ void __launch_bounds__(THREADS) klieg_contract_constant_f16(
    const __half* activation,  // [B, channels, cells]
    const unsigned long long* gradients,  // [scales] addresses of [B * questions, channels]
    const int* used,           // [B * questions, scales]
    float* part,               // [channels / 256, B * questions, total]
    int channels, int cells, int offset, int total, int scales, int questions) {
    dots(activation, gradients, used, part, channels, cells, offset, total, scales, questions);
}

// Mean over the counted scales of their products, enlarged. Grid: height, questions. A block makes
// one row of pixels: first the row of cells of every scale, in dynamic shared memory, 4 bytes a
// column of each scale.
extern "C" __global__ void __launch_bounds__(THREADS) klieg_contract_constant_spread(
    const float* part,  // [chunks, B * questions, total]
    const int* grids,   // [scales, 2] rows and columns of cells
    const int* used,    // [B * questions, scales]
    float* raw,         // [B * questions, height, width]
    int chunks, int total, int scales, int height, int width) {
    extern __shared__ __align__(16) unsigned char klieg_shared[];
    float* line = reinterpret_cast<float*>(klieg_shared);  // [columns of all scales]
    const int y = int(blockIdx.x), question = int(blockIdx.y);
    for (int scale = 0, column = 0, offset = 0; scale < scales; ++scale) {
        const int rows = grids[2 * scale], columns = grids[2 * scale + 1];
        const Taps taps = bilinear_taps(y, rows, height);
        for (int i = int(threadIdx.x); i < columns; i += THREADS) {
            float lower = 0.0f, upper = 0.0f;
            for (int chunk = 0; chunk < chunks; ++chunk) {
                const float* cells =
                    part + (size_t(chunk) * gridDim.y + question) * total + offset + i;
                lower += cells[taps.lower * columns];
                upper += cells[taps.upper * columns];
            }
            line[column + i] = lower + taps.share * (upper - lower);
        }
        column += columns;
        offset += rows * columns;
    }
    __syncthreads();
    for (int x = int(threadIdx.x); x < width; x += THREADS) {
        float sum = 0.0f;
        int count = 0;
        for (int scale = 0, column = 0; scale < scales; ++scale) {
            const int columns = grids[2 * scale + 1];
            if (used[size_t(question) * scales + scale]) {
                const Taps taps = bilinear_taps(x, columns, width);
                const float lower = line[column + taps.lower], upper = line[column + taps.upper];
                sum += lower + taps.share * (upper - lower);
                ++count;
            }
            column += columns;
        }
        raw[(size_t(question) * height + y) * width + x] = sum / float(count);
    }
}
