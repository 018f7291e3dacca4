// Warp matrix functions: lane 0 of a warp holds whole tiles and does all the work.
//
// On a GPU the elements are spread over the 32 lanes in an order that no kernel may rely on. Here
// the loops of a kernel over x[0 .. num_elements) see all elements on lane 0 and none elsewhere.
#pragma once

#include "cuda_fp16.h"
#include "cuda_shim.h"

namespace nvcuda::wmma {

enum layout_t { mem_row_major, mem_col_major };
struct row_major {};
struct col_major {};
struct matrix_a {};
struct matrix_b {};
struct accumulator {};

namespace shim {

inline bool first_lane() { return threadIdx.x % warpSize == 0; }

struct Elements {
    int count;
    operator int() const { return first_lane() ? count : 0; }
};

template <typename Use, int M, int N, int K>
struct Size;
template <int M, int N, int K>
struct Size<matrix_a, M, N, K> {
    static constexpr int rows = M, columns = K;
};
template <int M, int N, int K>
struct Size<matrix_b, M, N, K> {
    static constexpr int rows = K, columns = N;
};
template <int M, int N, int K>
struct Size<accumulator, M, N, K> {
    static constexpr int rows = M, columns = N;
};

template <typename T, int K>
struct Storage;
template <>
struct Storage<half, 16> {
    using type = half;
};
template <int K>
struct Storage<float, K> {
    using type = float;
};

template <typename T>
void check(const T* memory, unsigned stride) {
    if (reinterpret_cast<uintptr_t>(memory) % 32 != 0)
        klieg_shim::fail("wmma: the tile's address is no multiple of 32 bytes");
    if (stride * sizeof(T) % 16 != 0)
        klieg_shim::fail("wmma: the distance between rows is no multiple of 16 bytes");
}

}  // namespace shim

template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
    static_assert(M == 16 && N == 16 && K == 16, "the shape here is 16 x 16 x 16");
    using Size = shim::Size<Use, M, N, K>;
    using Value = typename shim::Storage<T, K>::type;
    static constexpr shim::Elements num_elements{Size::rows * Size::columns};
    Value x[Size::rows * Size::columns];  // [rows, columns]
};

template <typename Fragment, typename T>
inline void klieg_load(Fragment& tile, const T* memory, unsigned stride, bool by_row) {
    if (!shim::first_lane()) return;
    shim::check(memory, stride);
    using Size = typename Fragment::Size;
    for (int row = 0; row < Size::rows; ++row)
        for (int column = 0; column < Size::columns; ++column)
            tile.x[row * Size::columns + column] =
                memory[by_row ? size_t(row) * stride + column : size_t(column) * stride + row];
}

template <typename Use, int M, int N, int K, typename T, typename Layout, typename Memory>
inline void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& tile, const Memory* memory,
                             unsigned stride) {
    klieg_load(tile, memory, stride, std::is_same_v<Layout, row_major>);
}

template <int M, int N, int K>
inline void load_matrix_sync(fragment<accumulator, M, N, K, float>& tile, const float* memory,
                             unsigned stride, layout_t layout) {
    klieg_load(tile, memory, stride, layout == mem_row_major);
}

template <int M, int N, int K>
inline void store_matrix_sync(float* memory, const fragment<accumulator, M, N, K, float>& tile,
                              unsigned stride, layout_t layout) {
    if (!shim::first_lane()) return;
    shim::check(memory, stride);
    for (int row = 0; row < M; ++row)
        for (int column = 0; column < N; ++column)
            memory[layout == mem_row_major ? size_t(row) * stride + column
                                           : size_t(column) * stride + row] =
                tile.x[row * N + column];
}

template <typename Use, int M, int N, int K, typename T, typename Layout, typename Value>
inline void fill_fragment(fragment<Use, M, N, K, T, Layout>& tile, const Value& value) {
    for (int i = 0; i < tile.num_elements; ++i) tile.x[i] = value;
}

template <int M, int N, int K, typename T, typename LayoutA, typename LayoutB>
inline void mma_sync(fragment<accumulator, M, N, K, float>& d,
                     const fragment<matrix_a, M, N, K, T, LayoutA>& a,
                     const fragment<matrix_b, M, N, K, T, LayoutB>& b,
                     const fragment<accumulator, M, N, K, float>& c) {
    if (!shim::first_lane()) return;
    float rows[M][K], columns[K][N];
    for (int i = 0; i < M * K; ++i) rows[i / K][i % K] = float(a.x[i]);
    for (int i = 0; i < K * N; ++i) columns[i / N][i % N] = float(b.x[i]);
    for (int m = 0; m < M; ++m)
        for (int n = 0; n < N; ++n) {
            float sum = c.x[m * N + n];
            for (int k = 0; k < K; ++k) sum += rows[m][k] * columns[k][n];
            d.x[m * N + n] = sum;
        }
}

}  // namespace nvcuda::wmma
