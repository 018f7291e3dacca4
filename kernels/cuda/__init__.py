"""CUDA C++ kernels, each beside its plain truth, and how they are compiled and launched."""
