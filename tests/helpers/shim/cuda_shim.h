// The part of CUDA C++ that the kernels use, for a host compiler.
//
// What belongs to the language and its built-in functions stands here; how blocks run is in
// cuda_run.h. cpu_build.py replaces `__global__` and `__shared__` in the preprocessed text.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

using std::size_t;

#define __CUDA_ARCH__ 900
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
};

// Read-only for kernels; cuda_run.h sets them.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace klieg_shim {
inline constexpr unsigned MAX_THREADS = 1024;  // of a block
}

// Dynamic shared memory of the block that runs.
inline unsigned char* klieg_shared;

namespace klieg_shim {

// Keeps the first thing that a kernel did wrong; the launch fails with it.
inline const char* failure;

__attribute__((no_sanitize("address", "thread", "undefined"))) inline void fail(
    const char* message) {
    if (failure == nullptr) failure = message;
}

inline void barrier(int line);

// Alternates from block to block: two in a row share nothing that could hide a race.
inline unsigned block_parity;

// Arrays declared __shared__: every block gets new ones.
struct StaticShared {
    void** place;
    size_t bytes;
};

inline std::vector<StaticShared>& static_shared() {
    static std::vector<StaticShared> all;
    return all;
}

template <typename Array>
struct Shared {
    inline static void* memory;
    inline static bool known = (static_shared().push_back({&memory, sizeof(Array)}), true);
    static Array& get() {
        static_cast<void>(known);
        return *static_cast<Array*>(memory);
    }
};

}  // namespace klieg_shim

#define __syncthreads() klieg_shim::barrier(__LINE__)

// --- vectors -------------------------------------------------------------------------------------

#define KLIEG_VECTORS(T, name)                                                       \
    struct __align__(2 * sizeof(T)) name##2 {                                        \
        T x, y;                                                                      \
    };                                                                               \
    struct name##3 {                                                                 \
        T x, y, z;                                                                   \
    };                                                                               \
    struct __align__(sizeof(T) < 8 ? 4 * sizeof(T) : 16) name##4 {                   \
        T x, y, z, w;                                                                \
    };                                                                               \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                       \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }               \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

#define uint3 klieg_uint3  // declared above
KLIEG_VECTORS(unsigned, uint)
#undef uint3
KLIEG_VECTORS(float, float)
KLIEG_VECTORS(int, int)
KLIEG_VECTORS(unsigned char, uchar)
#undef KLIEG_VECTORS

// --- numbers -------------------------------------------------------------------------------------

inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float x, float y) { return x / y; }
using std::isfinite;
using std::isinf;
using std::isnan;

#define KLIEG_MIN_MAX(T)                                \
    inline T min(T a, T b) { return b < a ? b : a; }    \
    inline T max(T a, T b) { return a < b ? b : a; }
KLIEG_MIN_MAX(int)
KLIEG_MIN_MAX(unsigned)
KLIEG_MIN_MAX(long)
KLIEG_MIN_MAX(unsigned long)
KLIEG_MIN_MAX(long long)
KLIEG_MIN_MAX(unsigned long long)
#undef KLIEG_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }

template <typename To, typename From>
inline To klieg_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
inline int __float_as_int(float x) { return klieg_bits<int>(x); }
inline unsigned __float_as_uint(float x) { return klieg_bits<unsigned>(x); }
inline float __int_as_float(int x) { return klieg_bits<float>(x); }
inline float __uint_as_float(unsigned x) { return klieg_bits<float>(x); }

// --- memory --------------------------------------------------------------------------------------

template <typename T>
inline T __ldg(const T* address) {
    return *address;
}

namespace klieg_shim {

template <typename T, typename Change>
inline T atomic(T* address, Change change) {
    T before, after;
    __atomic_load(address, &before, __ATOMIC_RELAXED);
    do {
        after = change(before);
    } while (!__atomic_compare_exchange(address, &before, &after, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED));
    return before;
}

}  // namespace klieg_shim

#define KLIEG_ATOMIC(name, T, expression) \
    inline T name(T* address, T value) {  \
        return klieg_shim::atomic(address, [=](T before) -> T { return expression; }); \
    }
KLIEG_ATOMIC(atomicAdd, int, before + value)
KLIEG_ATOMIC(atomicAdd, unsigned, before + value)
KLIEG_ATOMIC(atomicAdd, float, before + value)
KLIEG_ATOMIC(atomicMax, int, max(before, value))
KLIEG_ATOMIC(atomicMax, unsigned, max(before, value))
KLIEG_ATOMIC(atomicMin, int, min(before, value))
KLIEG_ATOMIC(atomicMin, unsigned, min(before, value))
#undef KLIEG_ATOMIC
