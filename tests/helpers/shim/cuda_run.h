// Runs a grid block after block, and the threads of a block in turns.
//
// A thread is a fibre that keeps its processor until it ends or meets __syncthreads(); the threads
// of a source without __syncthreads() need no stacks of their own. ThreadSanitizer is told of each
// thread and of each barrier, and of no other order: what it reports is a race on any GPU, however
// the turns happened to fall. Two blocks in a row are different threads without any order, so that
// every block gets shared memory of its own.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdlib>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "cuda_pipeline.h"
#include "cuda_shim.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#define KLIEG_PLAIN __attribute__((no_sanitize("address", "thread", "undefined"), noinline))

namespace klieg_shim {

// --- what ThreadSanitizer is told ----------------------------------------------------------------

#if defined(__SANITIZE_THREAD__)
inline constexpr bool WATCHED = true;
inline void* current() { return __tsan_get_current_fiber(); }
inline void* create() { return __tsan_create_fiber(0); }
inline void become(void* thread) {
    __tsan_switch_to_fiber(thread, __tsan_switch_to_fiber_no_sync);
}
inline void release(void* event) { __tsan_release(event); }
inline void acquire(void* event) { __tsan_acquire(event); }
#else
inline constexpr bool WATCHED = false;
inline void* current() { return nullptr; }
inline void* create() { return nullptr; }
inline void become(void*) {}
inline void release(void*) {}
inline void acquire(void*) {}
#endif

// --- threads of one block, in turns --------------------------------------------------------------

using Place = void*[5];  // in a fibre, as __builtin_setjmp() keeps it

struct Thread {
    Place place;
    ucontext_t context;  // to enter it for the first time
    void* sanitizer;     // ThreadSanitizer's name for it
    int line;            // of the __syncthreads() it waits at
    bool entered, ended;
};

inline constexpr size_t STACK = 256 * 1024;
inline constexpr size_t EVENTS = 1 << 20;

inline Thread fibres[2][MAX_THREADS];  // of even and of odd blocks
inline Thread* threads = fibres[0];    // of the block that runs
inline char* stacks;
inline Place scheduler;
inline void* scheduler_sanitizer;
inline void (*body)(const void* arguments);
inline const void* body_arguments;

inline long events[EVENTS];  // one per barrier, to name it by
inline long beginning, ending;
inline size_t barrier_count;

// Whatever was done so far comes before what these threads do from now on.
KLIEG_PLAIN inline void let_begin(Thread* begun) {
    if (!WATCHED) return;
    release(&beginning);
    for (unsigned index = 0; index < blockDim.x; ++index) {
        if (begun[index].sanitizer == nullptr) begun[index].sanitizer = create();
        become(begun[index].sanitizer);
        acquire(&beginning);
    }
    become(scheduler_sanitizer);
}

// Whatever these threads did comes before what is done from now on.
KLIEG_PLAIN inline void let_end(Thread* ended) {
    if (!WATCHED) return;
    for (unsigned index = 0; index < blockDim.x; ++index) {
        become(ended[index].sanitizer);
        release(&ending);
    }
    become(scheduler_sanitizer);
    acquire(&ending);
}

[[noreturn]] KLIEG_PLAIN inline void jump(Place& to) { __builtin_longjmp(to, 1); }

KLIEG_PLAIN inline void yield(Thread& thread) {
    become(scheduler_sanitizer);
    if (__builtin_setjmp(thread.place) == 0) jump(scheduler);
}

KLIEG_PLAIN inline void resume(Thread& thread) {
    become(thread.sanitizer);
    if (__builtin_setjmp(scheduler) != 0) return;
    if (thread.entered) jump(thread.place);
    thread.entered = true;
    setcontext(&thread.context);
}

KLIEG_PLAIN inline void barrier(int line) {
    Thread& thread = threads[threadIdx.x];
    long* event = &events[barrier_count % EVENTS];
    thread.line = line;
    release(event);
    yield(thread);
    acquire(event);
}

// A fibre is one thread of every block that runs.
KLIEG_PLAIN inline void live() {
    Thread& thread = threads[threadIdx.x];
    for (;;) {
        body(body_arguments);
        check_copies();
        thread.ended = true;
        yield(thread);
    }
}

KLIEG_PLAIN inline void prepare(Thread& thread, char* stack) {
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = stack;
    thread.context.uc_stack.ss_size = STACK;
    thread.context.uc_link = nullptr;
    thread.entered = false;
    makecontext(&thread.context, live, 0);
}

KLIEG_PLAIN inline void prepare_all() {
    size_t bytes = 2 * MAX_THREADS * STACK;
    if (stacks == nullptr) {
        void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return fail("no memory for the threads' stacks");
        stacks = static_cast<char*>(memory);
    }
    for (unsigned index = 0; index < 2 * MAX_THREADS; ++index)
        prepare(fibres[index / MAX_THREADS][index % MAX_THREADS], stacks + index * STACK);
}

// Runs all threads to their next barrier or end; returns true if they ended.
KLIEG_PLAIN inline bool turn(unsigned block) {
    unsigned ended = 0;
    for (unsigned index = 0; index < block; ++index) {
        Thread& thread = threads[index];
        threadIdx = {index, 0, 0};
        thread.ended = false;
        resume(thread);
        ended += thread.ended;
        if (!thread.ended && thread.line != threads[0].line)
            fail("threads of a block wait at different __syncthreads()");
    }
    if (ended != 0 && ended != block)
        fail("some threads of a block ended while others wait at __syncthreads()");
    ++barrier_count;
    return ended == block;
}

KLIEG_PLAIN inline void run_in_turns(unsigned block) {
    if (stacks == nullptr) prepare_all();
    while (failure == nullptr && !turn(block)) {
    }
    if (failure != nullptr) prepare_all();  // gives up what waits
}

KLIEG_PLAIN inline void run_one_by_one(unsigned block) {
    for (unsigned index = 0; index < block; ++index) {
        threadIdx = {index, 0, 0};
        body(body_arguments);
        check_copies();
    }
}

// --- shared memory -------------------------------------------------------------------------------

inline std::vector<void*> blocks_memory;  // to be freed

// Fresh memory, its end watched by AddressSanitizer, that reads as NaN.
KLIEG_PLAIN inline void* shared_memory(size_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes) != 0) {
        fail("no memory for a block's shared memory");
        return nullptr;
    }
    std::memset(memory, 0xff, bytes);
    blocks_memory.push_back(memory);
    return memory;
}

KLIEG_PLAIN inline void free_shared_memory() {
    for (void* memory : blocks_memory) std::free(memory);
    blocks_memory.clear();
}

// --- launches ------------------------------------------------------------------------------------

// Whether the source has __syncthreads(); cpu_build.py says.
extern const bool has_barriers;

KLIEG_PLAIN inline void run_block(unsigned block, size_t shared) {
    if (shared != 0) klieg_shared = static_cast<unsigned char*>(shared_memory(shared));
    for (const StaticShared& array : static_shared()) *array.place = shared_memory(array.bytes);
    block_parity = 1 - block_parity;
    threads = fibres[block_parity];
    if (!blocks_memory.empty()) let_begin(threads);
    if (has_barriers || WATCHED) {
        run_in_turns(block);
    } else {
        run_one_by_one(block);
    }
    if (!WATCHED) free_shared_memory();  // would look like an access in no order with the threads'
}

KLIEG_PLAIN inline const char* run_grid(const unsigned* grid, unsigned block, size_t shared) {
    if (block == 0 || block > MAX_THREADS) return "a block has 1 to 1024 threads here";
    failure = nullptr;
    klieg_shared = nullptr;
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    scheduler_sanitizer = current();
    for (Thread* all : fibres) let_begin(all);
    for (unsigned z = 0; z < grid[2]; ++z)
        for (unsigned y = 0; y < grid[1]; ++y)
            for (unsigned x = 0; x < grid[0] && failure == nullptr; ++x) {
                blockIdx = {x, y, z};
                run_block(block, shared);
            }
    for (Thread* all : fibres) let_end(all);
    free_shared_memory();
    return failure;
}

template <typename T>
constexpr char type_letter() {
    static_assert(std::is_pointer_v<T> || std::is_same_v<T, int> || std::is_same_v<T, float>,
                  "a kernel takes pointers, int and float only");
    return std::is_pointer_v<T> ? 'p' : std::is_same_v<T, int> ? 'i' : 'f';
}

// One letter per argument: p, i or f.
template <typename... T>
const char* signature(void (*)(T...)) {
    static const char letters[] = {type_letter<T>()..., '\0'};
    return letters;
}

template <typename... T>
struct Call {
    void (*kernel)(T...);
    std::tuple<T...> arguments;
    static void run(const void* self) {
        const Call& call = *static_cast<const Call*>(self);
        std::apply(call.kernel, call.arguments);
    }
};

template <typename... T, size_t... Index>
Call<T...> bind(void (*kernel)(T...), void* const* arguments, std::index_sequence<Index...>) {
    return {kernel, {*static_cast<T*>(arguments[Index])...}};
}

// Returns what the kernel did wrong, or null. `arguments` are addresses of as many values as the
// signature has letters.
template <typename... T>
const char* launch(void (*kernel)(T...), const unsigned* grid, unsigned block, size_t shared,
                   void* const* arguments) {
    Call<T...> call = bind(kernel, arguments, std::index_sequence_for<T...>{});
    body = &Call<T...>::run;
    body_arguments = &call;
    return run_grid(grid, block, shared);
}

}  // namespace klieg_shim
