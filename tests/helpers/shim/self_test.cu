// What the shim promises, one kernel each; some of them are wrong on purpose.
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <mma.h>

using namespace nvcuda;

constexpr int THREADS = 256;

// Every thread reads what another one wrote.
extern "C" __global__ void __launch_bounds__(THREADS) reverse(
    const float* values,  // [blocks, 256]
    float* reversed,      // [blocks, 256]
    int with_barrier) {
    extern __shared__ __align__(16) unsigned char klieg_shared[];
    float* all = reinterpret_cast<float*>(klieg_shared);
    const size_t start = size_t(blockIdx.x) * THREADS;
    all[threadIdx.x] = values[start + threadIdx.x];
    if (with_barrier) __syncthreads();
    reversed[start + threadIdx.x] = all[THREADS - 1 - threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(THREADS) reverse_static(
    const float* values,  // [blocks, 256]
    float* reversed) {    // [blocks, 256]
    __shared__ float all[THREADS], unused[2][3];
    const size_t start = size_t(blockIdx.x) * THREADS;
    all[threadIdx.x] = values[start + threadIdx.x];
    __syncthreads();
    reversed[start + threadIdx.x] = all[THREADS - 1 - threadIdx.x];
    static_assert(sizeof(unused) == 24);
}

extern "C" __global__ void __launch_bounds__(THREADS) read_unwritten(float* found) {  // [2]
    extern __shared__ __align__(16) unsigned char klieg_shared[];
    __shared__ float fixed[4];
    if (threadIdx.x == 0) found[0] = reinterpret_cast<float*>(klieg_shared)[3];
    if (threadIdx.x == 0) found[1] = fixed[3];
    __syncthreads();
    reinterpret_cast<float*>(klieg_shared)[3] = fixed[3] = 1.0f;  // for the next block to find
}

extern "C" __global__ void __launch_bounds__(THREADS) divergent_barrier(int kind) {
    if (kind == 0 && threadIdx.x == 7) return;
    if (kind == 1 && threadIdx.x < 7) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) multiply_half(
    const __half* a,  // [16, 16]
    const __half* b,  // [16, 16]
    float* c) {       // [16, 16], transposed
    wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> left;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::row_major> right;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    if (threadIdx.x >= warpSize) return;
    wmma::fill_fragment(sum, 0.0f);
    wmma::load_matrix_sync(left, a, 16);
    wmma::load_matrix_sync(right, b, 16);
    wmma::mma_sync(sum, left, right, sum);
    wmma::store_matrix_sync(c, sum, 16, wmma::mem_col_major);
}

extern "C" __global__ void __launch_bounds__(THREADS) copy_late(
    const float4* source,  // [256]
    float4* seen,          // [2, 256] before and after waiting
    int wait) {
    extern __shared__ __align__(16) unsigned char klieg_shared[];
    float4* all = reinterpret_cast<float4*>(klieg_shared);
    __pipeline_memcpy_async(all + threadIdx.x, source + threadIdx.x, 16, threadIdx.x % 2 ? 4 : 0);
    __pipeline_commit();
    seen[threadIdx.x] = all[threadIdx.x];
    if (wait) __pipeline_wait_prior(0);
    seen[THREADS + threadIdx.x] = all[threadIdx.x];
}

extern "C" __global__ void __launch_bounds__(THREADS) count(int* total, float* sum, int* largest) {
    atomicAdd(total, 1);
    atomicAdd(sum, 0.5f);
    atomicMax(largest, int(blockIdx.x * THREADS + threadIdx.x));
}

// --- for the sanitizers --------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS) read_past_the_end(
    const float* values,  // [256]
    float* moved) {       // [256]
    moved[threadIdx.x] = values[threadIdx.x + 1];
}

extern "C" __global__ void __launch_bounds__(THREADS) write_past_shared(int bytes) {
    extern __shared__ __align__(16) unsigned char klieg_shared[];
    if (threadIdx.x == 0) klieg_shared[bytes] = 1;
}

extern "C" __global__ void __launch_bounds__(THREADS) same_place_in_every_block(float* place) {
    if (threadIdx.x == 0) place[0] = float(blockIdx.x);
}
