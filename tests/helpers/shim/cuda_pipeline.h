// Asynchronous copies, as late as the rules allow: nothing arrives before it is waited for.
#pragma once

#include <vector>

#include "cuda_shim.h"

namespace klieg_shim {

struct Copy {
    void* destination;
    const void* source;
    size_t bytes, zeros;
};

struct Pipeline {
    std::vector<Copy> open;                    // since the last commit
    std::vector<std::vector<Copy>> committed;  // oldest first
};

inline Pipeline pipelines[2][MAX_THREADS];  // [parity of the block, thread]

inline Pipeline& pipeline() { return pipelines[block_parity][threadIdx.x]; }

inline void check_copies() {
    if (pipeline().open.empty() && pipeline().committed.empty()) return;
    fail("a thread ended without waiting for its copies");
    pipeline() = {};
}

}  // namespace klieg_shim

inline void __pipeline_memcpy_async(void* destination, const void* source, size_t bytes,
                                    size_t zeros = 0) {
    if (bytes != 4 && bytes != 8 && bytes != 16)
        klieg_shim::fail("__pipeline_memcpy_async copies 4, 8 or 16 bytes");
    if (zeros > bytes) klieg_shim::fail("__pipeline_memcpy_async: more zeros than bytes");
    if (reinterpret_cast<uintptr_t>(destination) % bytes != 0 ||
        reinterpret_cast<uintptr_t>(source) % bytes != 0)
        klieg_shim::fail("__pipeline_memcpy_async: an address is no multiple of the size");
    std::memset(destination, 0xff, bytes);
    klieg_shim::pipeline().open.push_back({destination, source, bytes, zeros});
}

inline void __pipeline_commit() {
    klieg_shim::Pipeline& pipeline = klieg_shim::pipeline();
    pipeline.committed.push_back(std::move(pipeline.open));
    pipeline.open = {};
}

inline void __pipeline_wait_prior(size_t pending) {
    std::vector<std::vector<klieg_shim::Copy>>& committed = klieg_shim::pipeline().committed;
    while (committed.size() > pending) {
        for (const klieg_shim::Copy& copy : committed.front()) {
            size_t copied = copy.bytes - copy.zeros;
            std::memcpy(copy.destination, copy.source, copied);
            std::memset(static_cast<char*>(copy.destination) + copied, 0, copy.zeros);
        }
        committed.erase(committed.begin());
    }
}
