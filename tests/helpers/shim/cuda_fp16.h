// Half precision as <cuda_fp16.h> has it: every operation rounds to the nearest half.
#pragma once

#include "cuda_shim.h"

struct __half {
    _Float16 value;

    __half() = default;
    __half(float x) : value(static_cast<_Float16>(x)) {}
    __half(double x) : value(static_cast<_Float16>(x)) {}
    __half(int x) : value(static_cast<_Float16>(x)) {}
    operator float() const { return static_cast<float>(value); }
};
using half = __half;

struct __align__(4) __half2 {
    __half x, y;
};
using half2 = __half2;

inline __half __float2half(float x) { return __half(x); }
inline __half __float2half_rn(float x) { return __half(x); }
inline float __half2float(__half x) { return static_cast<float>(x); }
inline __half __ushort_as_half(unsigned short x) { return klieg_bits<__half>(x); }
inline unsigned short __half_as_ushort(__half x) { return klieg_bits<unsigned short>(x); }

// A float holds a product or sum of two halves closely enough for a second rounding to be harmless.
inline __half operator+(__half a, __half b) { return __half(float(a) + float(b)); }
inline __half operator-(__half a, __half b) { return __half(float(a) - float(b)); }
inline __half operator*(__half a, __half b) { return __half(float(a) * float(b)); }
inline __half operator/(__half a, __half b) { return __half(float(a) / float(b)); }
inline __half operator-(__half a) { return __half(-float(a)); }
inline __half& operator+=(__half& a, __half b) { return a = a + b; }
inline __half __hadd(__half a, __half b) { return a + b; }
inline __half __hmul(__half a, __half b) { return a * b; }
inline __half __hfma(__half a, __half b, __half c) {
    return __half(double(float(a)) * double(float(b)) + double(float(c)));
}

inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline float2 __half22float2(__half2 a) { return {float(a.x), float(a.y)}; }
inline __half __low2half(__half2 a) { return a.x; }
inline __half __high2half(__half2 a) { return a.y; }
