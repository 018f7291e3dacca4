// Gram matrices of 128 x 128 cells, W A^T, summed over channels step by step, by 256 threads.
//
// Two ways with one form: `Element` of the cells, `STEP` channels at a time from rows of `PITCH`
// elements, add() for a step, store() for a band of 32 rows.
#pragma once

#include <cuda_fp16.h>
#include <mma.h>

constexpr int CELLS = 128;  // rows and columns of the Gram matrix
constexpr int BAND = 32;    // rows that are stored at once
constexpr int ROW = CELLS + 8;  // floats of a stored row: threads of a warp meet different banks

// Every thread multiplies 8 x 8 pairs of cells in float32.
struct PlainGram {
    using Element = float;
    static constexpr int STEP = 16, PITCH = 20;
    static constexpr int SIDE = 8, STRIDE = CELLS / SIDE;
    float sums[SIDE][SIDE];

    __device__ void clear() {
        for (auto& row : sums) {
            for (float& sum : row) sum = 0.0f;
        }
    }

    __device__ void add(const float* w, const float* a, int) {
        const int row = int(threadIdx.x) / STRIDE, column = int(threadIdx.x) % STRIDE;
#pragma unroll 2
        for (int k = 0; k < STEP; ++k) {
            float left[SIDE], right[SIDE];
#pragma unroll
            for (int i = 0; i < SIDE; ++i) {
                left[i] = w[(row + i * STRIDE) * PITCH + k];
                right[i] = a[(column + i * STRIDE) * PITCH + k];
            }
#pragma unroll
            for (int i = 0; i < SIDE; ++i) {
#pragma unroll
                for (int j = 0; j < SIDE; ++j) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
            }
        }
    }

    __device__ void store(float* gram, int band) const {
        const int row = int(threadIdx.x) / STRIDE, column = int(threadIdx.x) % STRIDE;
#pragma unroll
        for (int i = 0; i < SIDE; ++i) {
            if (i * STRIDE / BAND != band) continue;
#pragma unroll
            for (int j = 0; j < SIDE; ++j) {
                gram[(row + i * STRIDE % BAND) * ROW + column + j * STRIDE] = sums[i][j];
            }
        }
    }
};

// Tensor cores: two rows of four warps, each with 64 x 32 pairs as 4 x 2 squares of 16.
struct TensorGram {
    using Element = __half;
    static constexpr int STEP = 32, PITCH = 40;
    static constexpr int SQUARE = 16, DOWN = 4, ACROSS = 2;
    using Left = nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, SQUARE, SQUARE, SQUARE, __half,
                                        nvcuda::wmma::row_major>;
    using Right = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, SQUARE, SQUARE, SQUARE, __half,
                                         nvcuda::wmma::col_major>;
    nvcuda::wmma::fragment<nvcuda::wmma::accumulator, SQUARE, SQUARE, SQUARE, float>
        sums[DOWN][ACROSS];

    __device__ static int first_row() { return int(threadIdx.x) / 128 * DOWN * SQUARE; }
    __device__ static int first_column() { return int(threadIdx.x) / 32 % 4 * ACROSS * SQUARE; }

    __device__ void clear() {
#pragma unroll
        for (int i = 0; i < DOWN; ++i) {
#pragma unroll
            for (int j = 0; j < ACROSS; ++j) nvcuda::wmma::fill_fragment(sums[i][j], 0.0f);
        }
    }

    // A warp without cells waits. Squares without a cell hold zeros: to leave them out would cost more
    // addresses than it saves products.
    __device__ void add(const __half* w, const __half* a, int cells) {
        if (first_row() >= cells || first_column() >= cells) return;
        w += first_row() * PITCH;
        a += first_column() * PITCH;
#pragma unroll
        for (int k = 0; k < STEP; k += SQUARE) {
            Right right[ACROSS];
#pragma unroll
            for (int j = 0; j < ACROSS; ++j) {
                nvcuda::wmma::load_matrix_sync(right[j], a + j * SQUARE * PITCH + k, PITCH);
            }
#pragma unroll
            for (int i = 0; i < DOWN; ++i) {
                Left left;
                nvcuda::wmma::load_matrix_sync(left, w + i * SQUARE * PITCH + k, PITCH);
#pragma unroll
                for (int j = 0; j < ACROSS; ++j) {
                    nvcuda::wmma::mma_sync(sums[i][j], left, right[j], sums[i][j]);
                }
            }
        }
    }

    __device__ void store(float* gram, int band) const {
#pragma unroll
        for (int i = 0; i < DOWN; ++i) {
            const int row = first_row() + i * SQUARE;
            if (row / BAND != band) continue;
#pragma unroll
            for (int j = 0; j < ACROSS; ++j) {
                nvcuda::wmma::store_matrix_sync(
                    gram + row % BAND * ROW + first_column() + j * SQUARE, sums[i][j], ROW,
                    nvcuda::wmma::mem_row_major);
            }
        }
    }
};
