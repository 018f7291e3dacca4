// Channels last: each cell's channels in a row, filled up with zeros, behind them the unit that they
// are counted in. The contraction then gathers whole rows in pieces of 16 bytes.
//
// Packed as float16 a cell's channels share an exponent: the largest is put near the upper end of
// float16's range, by a power of two, and the unit is that power's inverse. Each keeps 11 significant
// bits, as tensor cores keep of float32, but those below 2^-28 of the cell's largest.
#include <cuda_fp16.h>

constexpr int THREADS = 1024;
constexpr int LANES = 16;                // cells of a block
constexpr int SLICES = THREADS / LANES;  // that share its channels
constexpr int HELD = 32;                 // channels that a thread keeps in registers
constexpr int PART = HELD * SLICES;      // channels that are read at once
constexpr int WIDE = 4;                  // channels that a thread writes at once
constexpr int GROUP = WIDE * SLICES;     // channels that are transposed at once
constexpr int PITCH = GROUP + WIDE;      // keeps float16 of a warp in different banks

__device__ inline float as_float(float value) { return value; }
__device__ inline float as_float(__half value) { return __half2float(value); }

__device__ inline void put(float value, float, float* packed) { *packed = value; }
__device__ inline void put(float value, float factor, __half* packed) {
    *packed = __float2half_rn(value * factor);
}

template <typename Packed>
struct alignas(WIDE * sizeof(Packed)) Wide {
    Packed channels[WIDE];
};

// Power of two that puts `largest` into 2^14 .. 2^15, and its inverse.
struct Exponent {
    float factor, unit;
    __device__ explicit Exponent(float largest) {
        const unsigned biased = max(__float_as_uint(largest) >> 23, 15u);  // both stay normal
        factor = __uint_as_float((268u - biased) << 23);
        unit = __uint_as_float((biased - 14u) << 23);
    }
};

// One cell's channels, every 64th from `first` on.
template <typename Source>
__device__ void read(const Source* cell, int stride, int first, int channels, bool inside,
                     float (&held)[HELD]) {
    const Source* at = cell + size_t(first) * stride;
    const int step = SLICES * stride;
    const int count = inside && first < channels ? (channels - first + SLICES - 1) / SLICES : 0;
#pragma unroll
    for (int i = 0; i < HELD; ++i, at += step) held[i] = i < count ? as_float(*at) : 0.0f;
}

template <typename Source, typename Packed>
__device__ void pack(const Source* activation, const Source* gradient, Packed* activations,
                     Packed* gradients, int images, int channels, int cells, int gradient_cells,
                     int padded) {
    constexpr int TAIL = 32 / int(sizeof(Packed));  // pieces of rows begin where the GPU reads
    __shared__ float largest_of[SLICES][LANES];
    __shared__ Wide<Packed> block[LANES * PITCH / WIDE];
    const bool is_activation = int(blockIdx.y) < images;
    const int row = is_activation ? int(blockIdx.y) : int(blockIdx.y) - images;
    const int lane = int(threadIdx.x) % LANES, slice = int(threadIdx.x) / LANES;
    const int first = int(blockIdx.x) * LANES, stride = is_activation ? cells : gradient_cells;
    const bool inside = first + lane < cells;
    const Source* source = (is_activation ? activation : gradient) +
                           size_t(row) * channels * stride + min(first + lane, stride - 1);
    const size_t pitch = padded + TAIL;
    Packed* packed = (is_activation ? activations : gradients) + (size_t(row) * cells + first) * pitch;

    float held[HELD], largest = 0.0f;
    for (int part = 0; part < channels; part += PART) {
        read(source, stride, part + slice, channels, inside, held);
#pragma unroll
        for (int i = 0; i < HELD; ++i) largest = fmaxf(largest, fabsf(held[i]));
    }
    largest_of[slice][lane] = largest;
    __syncthreads();
    for (int half = SLICES / 2; half > 0; half /= 2) {
        if (slice < half) {
            largest_of[slice][lane] = fmaxf(largest_of[slice][lane], largest_of[slice + half][lane]);
        }
        __syncthreads();
    }
    const Exponent exponent(largest_of[0][lane]);
    if (slice == 0 && inside) {
        *reinterpret_cast<float*>(packed + lane * pitch + padded) =
            sizeof(Packed) == sizeof(__half) ? exponent.unit : 1.0f;
    }

    Packed* turned = reinterpret_cast<Packed*>(block);  // [16 cells, 256 channels]
    const int line = int(threadIdx.x) / SLICES, place = int(threadIdx.x) % SLICES;
    for (int part = 0; part < channels; part += PART) {
        if (channels > PART) read(source, stride, part + slice, channels, inside, held);
#pragma unroll
        for (int i = 0; i < HELD; i += WIDE) {
            const int group = part + i * SLICES;
            if (group >= padded) break;
#pragma unroll
            for (int j = 0; j < WIDE; ++j) {
                put(held[i + j], exponent.factor, turned + lane * PITCH + j * SLICES + slice);
            }
            __syncthreads();
            const int channel = group + place * WIDE;
            if (first + line < cells && channel < padded) {
                *reinterpret_cast<Wide<Packed>*>(packed + line * pitch + channel) =
                    block[(line * PITCH) / WIDE + place];
            }
            __syncthreads();
        }
    }
}

// Grid: cells / 16, images + maps. A packed row of `padded` channels is followed by 32 bytes, of which
// the first four are its unit.
#define KLIEG_PACK(NAME, SOURCE, PACKED)                                                           \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                                    \
        const SOURCE* activation,  /* [images, channels, cells] */                                 \
        const SOURCE* gradient,    /* [maps, channels, gradient_cells] */                          \
        PACKED* activations,       /* [images, cells, padded + 32 bytes] */                        \
        PACKED* gradients,         /* [maps, cells, padded + 32 bytes] */                          \
        int images, int channels, int cells,                                                       \
        int gradient_cells,        /* 1 if the gradient is the same in all cells, else cells */    \
        int padded) {                                                                              \
        pack(activation, gradient, activations, gradients, images, channels, cells,                \
             gradient_cells, padded);                                                              \
    }

KLIEG_PACK(klieg_pack_f32_to_f16, float, __half)
KLIEG_PACK(klieg_pack_f16_to_f16, __half, __half)
KLIEG_PACK(klieg_pack_f32_to_f32, float, float)
