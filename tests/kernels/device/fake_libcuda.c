/* A CUDA driver without a GPU: as much of libcuda.so.1 as cuda.core and klieg ask for.

   It writes every call that changes something, in order, to the file that FAKE_LIBCUDA_RECORD
   names, with " -> code" behind those that it refused. Like the real driver it refuses work without
   a current context (201), on a stream of another context (400), and on memory that is not
   allocated (1). Two GPUs, whose addresses mean nothing to the host. Declared by hand, since CUDA's
   headers are not installed everywhere; handles are numbers of a pointer's size. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long Address;
typedef size_t Handle;

enum { GPUS = 2, MOST = 64, ROOM = 1 << 16, HOST = -1 };
enum { INVALID_VALUE = 1, NO_MEMORY, INVALID_GPU = 101, NO_CONTEXT = 201, INVALID_HANDLE = 400 };
enum { NOT_FOUND = 500 };
static const Handle CONTEXT = 0x100, STREAM = 0x5000, POOL = 0x7000, LIBRARY = 0x8000,
                    KERNEL = 0x9000, GRAPH = 0xa000, EXEC = 0xb000, EVENT = 0xc000, USER = 0xd000;
static const Address MEMORY = 0x7f0000000000;

static struct { Address address; size_t size; int gpu; } pieces[MOST]; /* HOST: pinned */
static unsigned char content[ROOM];
static Address used;
static int piece_count, stream_count, stream_gpu[MOST];
static Handle capturing;
static __thread Handle contexts[MOST]; /* the stack of current ones */
static __thread int depth;
static char failing[64]; /* the call that fails next */
static int failure, stays, sticky;

/* ---- the record, and what the test asks for ---- */

static FILE *record(void) {
    static FILE *file;
    if (!file) {
        file = fopen(getenv("FAKE_LIBCUDA_RECORD"), "w");
        setvbuf(file, NULL, _IOLBF, 0);
    }
    return file;
}

/* Let a later call fail once, or from then on every call. */
void fake_fail(const char *function, int code, int for_good) {
    strcpy(failing, function);
    failure = code;
    stays = for_good;
}

/* Write a line of the test's own, behind the GPUs whose contexts are current in this thread. */
void fake_note(const char *text) {
    fputc('[', record());
    for (int i = 0; i < depth; i++) fprintf(record(), i ? " %zu" : "%zu", contexts[i] - CONTEXT);
    fprintf(record(), "] %s\n", text);
}

static int gpu_of_stream(Handle stream) {
    if (stream > 2) return stream_gpu[stream - STREAM];
    return depth ? (int)(contexts[depth - 1] - CONTEXT) : -1; /* a default stream: the current */
}

/* Record a call and return its code. */
static int asked(const char *function, int in_context, Handle stream, const char *format, ...) {
    char name[64], details[256];
    va_list rest;
    va_start(rest, format);
    vsnprintf(details, sizeof details, format, rest);
    va_end(rest);
    snprintf(name, sizeof name, "%s", function);
    if (strstr(name, "_v")) *strstr(name, "_v") = 0;

    int code = sticky;
    if (!code && failure && !strcmp(name, failing)) {
        code = failure;
        if (stays) sticky = code;
        failure = 0;
    }
    if (!code && in_context && !depth) code = NO_CONTEXT;
    if (!code && in_context && contexts[depth - 1] != CONTEXT + gpu_of_stream(stream))
        code = INVALID_HANDLE;
    fprintf(record(), "%s%s%s", name, *details ? " " : "", details);
    fprintf(record(), code ? " -> %d\n" : "\n", code);
    return code;
}

#define ASKED(in_context, stream, ...)                                   \
    do {                                                                 \
        int refusal = asked(__func__, in_context, stream, __VA_ARGS__);  \
        if (refusal) return refusal;                                     \
    } while (0)
#define ANYWHERE(...) ASKED(0, 0, __VA_ARGS__)
#define IN_CONTEXT(...) ASKED(1, 0, __VA_ARGS__)
#define ON(stream, ...) ASKED(1, stream, __VA_ARGS__) /* in the stream's context */

/* ---- the driver, its GPUs and its errors ---- */

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { return *version = 13000, 0; }
int cuDeviceGetCount(int *count) { return *count = GPUS, 0; }
int cuDeviceGet(int *gpu, int index) { return *gpu = index, index < GPUS ? 0 : INVALID_GPU; }
int cuDeviceGetName(char *name, int size, int gpu) {
    return snprintf(name, size, "Fake %d", gpu), 0;
}
int cuDeviceTotalMem_v2(size_t *size, int gpu) { return *size = 1ull << 34, 0; }
int cuDeviceGetAttribute(int *value, int attribute, int gpu) {
    return *value = attribute == 75 ? 9 : attribute != 76, 0; /* compute capability 9.0; yes */
}

static const struct { int code; const char *name, *text; } errors[] = {
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
};
static int describe(int code, const char **name, const char **text) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) return *name = errors[i].name, *text = errors[i].text, 0;
    return INVALID_VALUE;
}
static const char *unasked;
int cuGetErrorName(int code, const char **name) { return describe(code, name, &unasked); }
int cuGetErrorString(int code, const char **text) { return describe(code, &unasked, text); }

/* ---- contexts, streams and events ---- */

int cuDevicePrimaryCtxRetain(Handle *context, int gpu) {
    ANYWHERE("gpu %d", gpu);
    return *context = CONTEXT + gpu, 0;
}
int cuDevicePrimaryCtxRelease_v2(int gpu) { ANYWHERE("gpu %d", gpu); return 0; }
int cuCtxGetCurrent(Handle *context) { return *context = depth ? contexts[depth - 1] : 0, 0; }
int cuCtxSetCurrent(Handle context) {
    if (depth) depth--;
    if (context) contexts[depth++] = context;
    return 0;
}
int cuCtxPushCurrent_v2(Handle context) {
    return sticky ? sticky : (contexts[depth++] = context, 0);
}
int cuCtxPopCurrent_v2(Handle *context) {
    return depth ? (*context = contexts[--depth], 0) : NO_CONTEXT;
}
int cuCtxGetDevice(int *gpu) { return depth ? (*gpu = gpu_of_stream(0), 0) : NO_CONTEXT; }

int cuStreamCreateWithPriority(Handle *stream, unsigned flags, int priority) {
    *stream = STREAM + stream_count;
    IN_CONTEXT("flags %u stream %zx", flags, *stream);
    return stream_gpu[stream_count++] = gpu_of_stream(0), 0;
}
int cuCtxGetStreamPriorityRange(int *least, int *most) { return *least = *most = 0, 0; }
int cuStreamDestroy_v2(Handle stream) { ANYWHERE("stream %zx", stream); return 0; }
int cuStreamSynchronize(Handle stream) { ON(stream, "stream %zx", stream); return 0; }
int cuStreamGetCtx(Handle stream, Handle *context) {
    return *context = CONTEXT + gpu_of_stream(stream), 0;
}

int cuEventCreate(Handle *event, unsigned flags) {
    IN_CONTEXT("flags %u", flags);
    return *event = EVENT, 0;
}
int cuEventRecord(Handle event, Handle stream) { ON(stream, "stream %zx", stream); return 0; }
int cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) {
    ON(stream, "stream %zx", stream);
    return 0;
}
int cuEventDestroy_v2(Handle event) { ANYWHERE(""); return 0; }

/* ---- memory ---- */

static int add(Address address, size_t size, int gpu) {
    pieces[piece_count].address = address;
    pieces[piece_count].size = size;
    return pieces[piece_count++].gpu = gpu, 0;
}
static int find(Address address, size_t size) {
    for (int i = 0; i < piece_count; i++)
        if (address >= pieces[i].address && size <= pieces[i].size
            && address - pieces[i].address <= pieces[i].size - size)
            return i;
    return -1;
}

int cuDeviceGetMemPool(Handle *pool, int gpu) { return *pool = POOL, 0; }
int cuMemPoolGetAttribute(Handle pool, int attribute, void *value) {
    return memset(value, 0, attribute < 4 ? sizeof(int) : sizeof(Address)), 0;
}
int cuMemPoolSetAttribute(Handle pool, int attribute, void *value) { return 0; }
int cuMemAllocFromPoolAsync(Address *address, size_t size, Handle pool, Handle stream) {
    ON(stream, "%zu bytes stream %zx", size, stream);
    if (size > ROOM - used || piece_count == MOST) return NO_MEMORY;
    *address = MEMORY + used;
    used += (size + 255) / 256 * 256; /* never used again: what is freed stays invalid */
    return add(*address, size, gpu_of_stream(stream));
}
int cuMemFreeAsync(Address address, Handle stream) {
    ASKED(stream <= 2, stream, "%llx stream %zx", address, stream);
    int piece = find(address, 1);
    return piece < 0 ? INVALID_VALUE : (pieces[piece].size = 0);
}
int cuMemGetInfo_v2(size_t *free, size_t *total) {
    IN_CONTEXT("");
    return *free = 12345, *total = 1ull << 34, 0;
}
int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, Handle stream) {
    ON(stream, "%zu bytes stream %zx", size, stream);
    return find(to, size) < 0 ? INVALID_VALUE : (memcpy(content + (to - MEMORY), from, size), 0);
}
int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, Handle stream) {
    ON(stream, "%zu bytes stream %zx", size, stream);
    return find(from, size) < 0 ? INVALID_VALUE : (memcpy(to, content + (from - MEMORY), size), 0);
}
int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, Handle stream) {
    ON(stream, "%llx from %llx %zu bytes stream %zx", to, from, size, stream);
    if (find(to, size) < 0 || find(from, size) < 0) return INVALID_VALUE;
    return memcpy(content + (to - MEMORY), content + (from - MEMORY), size), 0;
}
int cuMemHostRegister_v2(void *address, size_t size, unsigned flags) {
    return add((Address)address, size, HOST);
}
int cuPointerGetAttribute(void *value, int attribute, Address address) {
    int piece = find(address, 1);
    if (piece < 0) return INVALID_VALUE;
    int gpu = pieces[piece].gpu;
    return *(int *)value = attribute == 2 ? (gpu == HOST ? 1 : 2) : gpu, 0; /* memory type, GPU */
}

/* ---- code, launches and graphs ---- */

int cuLibraryLoadData(Handle *library, const char *image, void *jit_options, void *jit_values,
                      unsigned jit_count, void *options, void *values, unsigned count) {
    ANYWHERE("%02x", (unsigned char)*image);
    return *library = LIBRARY, 0;
}
/* The only kernel takes (int, T*, float). */
int cuLibraryGetKernel(Handle *kernel, Handle library, const char *name) {
    return *kernel = KERNEL, strcmp(name, "klieg_k") ? NOT_FOUND : 0;
}
int cuKernelSetAttribute(int attribute, int value, Handle kernel, int gpu) {
    ANYWHERE("%d %d gpu %d", attribute, value, gpu);
    return 0;
}
struct launch { unsigned grid[3], block[3], shared; Handle stream; void *more; unsigned count; };
int cuLaunchKernelEx(const struct launch *to, Handle kernel, void **arguments, void **extra) {
    const unsigned *g = to->grid, *b = to->block;
    ON(to->stream, "grid %u %u %u block %u %u %u shared %u stream %zx arguments %d %llx %g",
       g[0], g[1], g[2], b[0], b[1], b[2], to->shared, to->stream,
       *(int *)arguments[0], *(Address *)arguments[1], *(float *)arguments[2]);
    return 0;
}
int cuStreamBeginCapture_v2(Handle stream, int mode) {
    ON(stream, "stream %zx mode %d", stream, mode);
    return capturing = stream, 0;
}
int cuStreamIsCapturing(Handle stream, int *is) { return *is = stream && stream == capturing, 0; }
int cuStreamGetCaptureInfo_v3(Handle stream, int *is, Address *id, Handle *graph, void *nodes,
                              void *edges, size_t *count) {
    if (graph) *graph = GRAPH;
    if (count) *count = 0;
    return cuStreamIsCapturing(stream, is);
}
int cuStreamEndCapture(Handle stream, Handle *graph) {
    ON(stream, "stream %zx", stream);
    return capturing = 0, *graph = GRAPH, 0;
}
int cuUserObjectCreate(Handle *object, void *of, void *destroy, unsigned count, unsigned flags) {
    return *object = USER, 0;
}
int cuGraphRetainUserObject(Handle graph, Handle user, unsigned count, unsigned flags) { return 0; }
int cuGraphReleaseUserObject(Handle graph, Handle user, unsigned count) { return 0; }
struct parameters { Address flags; Handle stream, failed; int result; };
int cuGraphInstantiateWithParams(Handle *exec, Handle graph, struct parameters *parameters) {
    IN_CONTEXT("");
    return parameters->result = 0, *exec = EXEC, 0;
}
int cuGraphDestroy(Handle graph) { ANYWHERE(""); return 0; }
int cuGraphLaunch(Handle exec, Handle stream) { ON(stream, "stream %zx", stream); return 0; }
int cuGraphExecDestroy(Handle exec) { ANYWHERE(""); return 0; }

/* ---- how cuda.bindings finds all of this ---- */

int cuGetProcAddress_v2(const char *name, void **function, int version, Address flags, int *is) {
    static const char *const versions[] = {"_v3", "_v2", ""};
    void *self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    *function = NULL;
    for (int i = 0; i < 3 && !*function; i++) {
        char full[128];
        snprintf(full, sizeof full, "%s%s", name, versions[i]);
        *function = dlsym(self, full);
    }
    if (is) *is = !*function;
    return *function ? 0 : NOT_FOUND;
}
