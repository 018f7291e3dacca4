// Raw maps made maps in two kernels: the extremes of parts of each map, then the maps.
//
// Extremes are compared, never added, so that the result does not depend on any order. A NaN is an
// extreme of its map, and makes all of it NaN.
constexpr int THREADS = 256;

// What became of a map; normalize.py has the same numbers.
constexpr int FINE = 0;
constexpr int FLAT = 1;
constexpr int NOT_A_NUMBER = 2;
constexpr int OUT_OF_RANGE = 3;

constexpr float ROUNDING = 1e-3f;  // how far out of 0..1 a mask may be (klieg.kernels.normalisation)

struct Extremes {
    float lowest, highest;
};

// The lowest of a and b, or NaN. Of the highest fmaxf is enough: a map with NaN shows it here.
__device__ inline float lower(float a, float b) { return a < b || a != a ? a : b; }

__device__ inline void include(Extremes& extremes, Extremes other) {
    extremes.lowest = lower(extremes.lowest, other.lowest);
    extremes.highest = fmaxf(extremes.highest, other.highest);
}

__device__ inline void include(Extremes& extremes, float value) {
    include(extremes, Extremes{value, value});
}

// The extremes over all threads of the block, for every thread.
__device__ inline Extremes over_block(Extremes extremes) {
    extern __shared__ __align__(16) unsigned char klieg_shared[];
    Extremes* all = reinterpret_cast<Extremes*>(klieg_shared);  // [THREADS]
    all[threadIdx.x] = extremes;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (int(threadIdx.x) < half) include(all[threadIdx.x], all[threadIdx.x + half]);
        __syncthreads();
    }
    return all[0];
}

// Divides the grid: x is (map, part).
extern "C" __global__ void __launch_bounds__(THREADS) klieg_normalize_extremes(
    const float* raw,   // [N, pixels]
    float* extremes,    // [N, parts, 2] the lowest and the highest value of a part
    int pixels,         // of a map
    int parts,          // 1..THREADS; no more than there are groups of four pixels
    int whole_groups  // 1 if maps start at 16 bytes and consist of whole groups of four pixels
) {
    const float* map = raw + size_t(blockIdx.x) / parts * pixels;
    const int part = int(blockIdx.x) % parts;
    const int stride = parts * THREADS;
    const int first = part * THREADS + int(threadIdx.x);
    // A pixel of the part, so that threads without one do no harm.
    const float own = map[min(part * THREADS, pixels - 1)];
    Extremes found = {own, own};
    if (whole_groups) {
        const float4* groups = reinterpret_cast<const float4*>(map);
        for (int i = first; i < pixels / 4; i += stride) {
            const float4 group = groups[i];
            include(found, group.x);
            include(found, group.y);
            include(found, group.z);
            include(found, group.w);
        }
    } else {
        for (int i = first; i < pixels; i += stride) include(found, map[i]);
    }
    found = over_block(found);
    if (threadIdx.x == 0) {
        extremes[size_t(blockIdx.x) * 2] = found.lowest;
        extremes[size_t(blockIdx.x) * 2 + 1] = found.highest;
    }
}

// What is done to every value of a map: (clamped to low..high - low) / span.
struct Scaling {
    float low, high, span;
    int state;
};

// Relu, then the range brought to 0..1 (klieg.kernels.normalisation.normalise).
__device__ inline Scaling scaling_of_map(Extremes all) {
    const float low = fmaxf(all.lowest, 0.0f);
    const float span = fmaxf(all.highest, 0.0f) - low;
    if (span <= 1e-6f * fmaxf(all.highest, -all.lowest)) return {0.0f, 0.0f, 1.0f, FLAT};
    return {low, all.highest, span, FINE};
}

// Freed from rounding, and otherwise as it is (klieg.explanation.as_masks).
__device__ inline Scaling scaling_of_mask(Extremes all) {
    if (all.lowest < -ROUNDING || all.highest > 1.0f + ROUNDING)
        return {0.0f, 1.0f, nanf(""), OUT_OF_RANGE};
    const float range = fminf(all.highest, 1.0f) - fmaxf(all.lowest, 0.0f);
    return {0.0f, 1.0f, 1.0f, range <= 1e-6f ? FLAT : FINE};
}

__device__ inline float scaled(float value, const Scaling& to) {
    return (fminf(fmaxf(value, to.low), to.high) - to.low) / to.span;
}

template <bool MASKS>
__device__ void normalize(const float* raw, const float* extremes, float* maps, int* states,
                          int pixels, int parts, int whole_groups) {
    const int map = int(blockIdx.x) / parts;
    const int part = int(blockIdx.x) % parts;
    const int own = min(int(threadIdx.x), parts - 1);
    const float* pair = extremes + (size_t(map) * parts + own) * 2;
    const Extremes all = over_block({pair[0], pair[1]});
    Scaling to = MASKS ? scaling_of_mask(all) : scaling_of_map(all);
    if (all.lowest != all.lowest) to = {0.0f, 1.0f, nanf(""), NOT_A_NUMBER};
    if (part == 0 && threadIdx.x == 0) states[map] = to.state;

    const int stride = parts * THREADS;
    const int first = part * THREADS + int(threadIdx.x);
    const size_t start = size_t(map) * pixels;
    if (whole_groups) {
        const float4* source = reinterpret_cast<const float4*>(raw + start);
        float4* result = reinterpret_cast<float4*>(maps + start);
        for (int i = first; i < pixels / 4; i += stride) {
            const float4 group = source[i];
            result[i] = {scaled(group.x, to), scaled(group.y, to), scaled(group.z, to),
                         scaled(group.w, to)};
        }
    } else {
        for (int i = first; i < pixels; i += stride)
            maps[start + i] = scaled(raw[start + i], to);
    }
}

#define KLIEG_NORMALIZE(NAME, MASKS)                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME(                                    \
        const float* raw,      /* [N, pixels] */                                                   \
        const float* extremes, /* [N, parts, 2] of klieg_normalize_extremes */                     \
        float* maps,           /* [N, pixels] in 0..1, or NaN */                                   \
        int* states,           /* [N] FINE, FLAT, NOT_A_NUMBER or OUT_OF_RANGE */                  \
        int pixels, int parts, int whole_groups) {                                               \
        normalize<MASKS>(raw, extremes, maps, states, pixels, parts, whole_groups);              \
    }

KLIEG_NORMALIZE(klieg_normalize_maps, false)
KLIEG_NORMALIZE(klieg_normalize_masks, true)
