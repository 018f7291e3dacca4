// Channels last: each cell's channels in a row, filled up with zeros. The contraction then gathers
// whole rows in pieces of 16 bytes.
#include <cuda_fp16.h>

constexpr int THREADS = 256;
constexpr int TILE = 32;  // cells and channels of a block

__device__ inline float rounded(float value, int to_tf32) {
    if (!to_tf32) return value;
    const unsigned bits = __float_as_uint(value);
    // To the nearest of 10 bits: what tensor cores read; they would cut the rest off.
    return (bits & 0x7f800000u) == 0x7f800000u ? value
                                                : __uint_as_float((bits + 0x1000u) & ~0x1fffu);
}
__device__ inline __half rounded(__half value, int) { return value; }

template <typename T>
__device__ void pack(const T* source, T* packed, int channels, int cells, int source_cells,
                     int padded, int to_tf32) {
    __shared__ T block[TILE][TILE + 1];
    const int row = int(blockIdx.z);
    const int first_cell = int(blockIdx.x) * TILE, first_channel = int(blockIdx.y) * TILE;
    const int lane = int(threadIdx.x) % TILE, line = int(threadIdx.x) / TILE;
    for (int i = line; i < TILE; i += THREADS / TILE) {
        const int channel = first_channel + i, cell = first_cell + lane;
        const size_t at = (size_t(row) * channels + channel) * source_cells;
        block[i][lane] = channel < channels && cell < cells
                             ? rounded(source[at + min(cell, source_cells - 1)], to_tf32)
                             : T(0.0f);
    }
    __syncthreads();
    for (int i = line; i < TILE; i += THREADS / TILE) {
        const int cell = first_cell + i;
        if (cell < cells) {
            packed[(size_t(row) * cells + cell) * padded + first_channel + lane] = block[lane][i];
        }
    }
}

// Grid: cells / 32, padded / 32, rows. `source_cells` is 1 where every cell holds the same.
extern "C" __global__ void __launch_bounds__(THREADS) klieg_pack_f32(
    const float* source,  // [rows, channels, source_cells]
    float* packed,        // [rows, cells, padded]
    int channels, int cells, int source_cells, int padded, int to_tf32) {
    pack(source, packed, channels, cells, source_cells, padded, to_tf32);
}

extern "C" __global__ void __launch_bounds__(THREADS) klieg_pack_f16(
    const __half* source,  // [rows, channels, source_cells]
    __half* packed,        // [rows, cells, padded]
    int channels, int cells, int source_cells, int padded, int to_tf32) {
    pack(source, packed, channels, cells, source_cells, padded, to_tf32);
}
