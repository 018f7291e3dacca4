// The class of every question, and whether a scale counts for it, decided without the host.
constexpr int THREADS = 256;

struct Candidate {
    float logit;
    int index;
};

// NumPy's argmax: the largest, the first of equals, and NaN above everything.
__device__ inline bool wins(Candidate a, Candidate b) {
    const bool a_nan = a.logit != a.logit, b_nan = b.logit != b.logit;
    if (a_nan != b_nan) return a_nan;
    if (!a_nan && a.logit != b.logit) return a.logit > b.logit;
    return a.index < b.index;
}

// One block per image.
extern "C" __global__ void __launch_bounds__(THREADS) klieg_gate(
    const float* logits,     // [B, classes] at this step
    const long long* asked,  // [B * questions] -1 for the predicted class
    long long* targets,      // [B * questions] written at the first step, read later
    int* used,               // [B * questions, steps] column `step` is written
    int* finite,             // [B, steps] column `step` is written
    int classes, int questions, int step, int steps) {
    extern __shared__ __align__(16) unsigned char klieg_shared[];
    Candidate* best = reinterpret_cast<Candidate*>(klieg_shared);  // [THREADS]
    int* sound = reinterpret_cast<int*>(best + THREADS);           // [THREADS]
    const int thread = int(threadIdx.x);
    const float* row = logits + size_t(blockIdx.x) * classes;

    // Threads without a class repeat the last one, which changes nothing.
    Candidate own = {row[min(thread, classes - 1)], min(thread, classes - 1)};
    int all_finite = 1;
    for (int i = thread; i < classes; i += THREADS) {
        const Candidate other = {row[i], i};
        if (wins(other, own)) own = other;
        if (!(other.logit - other.logit == 0.0f)) all_finite = 0;  // infinity - infinity is NaN
    }
    best[thread] = own;
    sound[thread] = all_finite;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) {
            if (wins(best[thread + half], best[thread])) best[thread] = best[thread + half];
            sound[thread] &= sound[thread + half];
        }
        __syncthreads();
    }

    const long long predicted = best[0].index;
    if (thread == 0) finite[size_t(blockIdx.x) * steps + step] = sound[0];
    for (int i = thread; i < questions; i += THREADS) {
        const size_t question = size_t(blockIdx.x) * questions + i;
        if (step == 0) targets[question] = asked[question] >= 0 ? asked[question] : predicted;
        used[question * steps + step] =
            step == 0 || asked[question] >= 0 || predicted == targets[question];
    }
}
