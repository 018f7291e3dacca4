"""Whether everything that is used of the real packages exists; no driver is needed for that."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

USED = {
    "cuda.core": [
        "__version__",
        "launch",
        "Device.set_current",
        "Device.context",
        "Device.name",
        "Device.compute_capability",
        "Device.create_stream",
        "Device.allocate",
        "Stream.from_handle",
        "Stream.handle",
        "Stream.device",
        "Stream.sync",
        "Stream.create_graph_builder",
        "StreamOptions",
        "LaunchConfig",
        "ObjectCode.from_fatbin",
        "ObjectCode.from_cubin",
        "ObjectCode.from_ptx",
        "ObjectCode.handle",
        "ObjectCode.get_kernel",
        "Kernel.handle",
        "Buffer.handle",
        "Buffer.close",
        "Context.handle",
        "Device.device_id",
    ],
    "cuda.core.graph": [
        "GraphBuilder.begin_building",
        "GraphBuilder.end_building",
        "GraphBuilder.complete",
        "Graph.launch",
    ],
    "cuda.core.utils": ["StridedMemoryView.from_dlpack"],
    "cuda.core._utils.cuda_utils": ["CUDAError", "handle_return"],
    "cuda.bindings.driver": [
        "CUresult.CUDA_ERROR_OUT_OF_MEMORY",
        "CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES",
        "CU_STREAM_LEGACY",
        "cuCtxGetCurrent",
        "cuCtxSetCurrent",
        "cuCtxPushCurrent",
        "cuCtxPopCurrent",
        "cuMemcpyHtoDAsync",
        "cuMemcpyDtoHAsync",
        "cuMemcpyDtoDAsync",
        "cuDeviceGet",
        "cuKernelSetAttribute",
    ],
}


@pytest.mark.parametrize("module", USED)
def test_cuda_core_has_everything_that_is_used(module):
    pytest.importorskip("cuda.core", reason="cuda.core is not installed")
    for path in USED[module]:
        found = import_module(module)
        for name in path.split("."):
            assert hasattr(found, name), f"{module} has no {path}"
            found = getattr(found, name)


def test_launches_are_described_as_cuda_core_expects():
    core = pytest.importorskip("cuda.core", reason="cuda.core is not installed")
    config = core.LaunchConfig(grid=(3, 2, 1), block=256, shmem_size=1024)
    assert (config.grid, config.block, config.shmem_size) == ((3, 2, 1), (256, 1, 1), 1024)
    assert core.StreamOptions(nonblocking=True).nonblocking
    assert "stream" in inspect.signature(core.Device.allocate).parameters


FATAL = [
    "ASSERT",
    "CONTAINED",
    "CONTEXT_IS_DESTROYED",
    "DEINITIALIZED",
    "ECC_UNCORRECTABLE",
    "EXTERNAL_DEVICE",
    "HARDWARE_STACK_ERROR",
    "ILLEGAL_ADDRESS",
    "ILLEGAL_INSTRUCTION",
    "INVALID_ADDRESS_SPACE",
    "INVALID_PC",
    "LAUNCH_FAILED",
    "LAUNCH_TIMEOUT",
    "MISALIGNED_ADDRESS",
    "MPS_CLIENT_TERMINATED",
    "MPS_RPC_FAILURE",
    "NO_DEVICE",
    "NVLINK_UNCORRECTABLE",
    "TENSOR_MEMORY_LEAK",
    "UNKNOWN",
]


def test_codes_are_named_as_the_device_reads_them():
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda.bindings is not installed")
    from klieg.kernels.device.libcuda import OUT_OF_MEMORY, STICKY

    assert driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY == OUT_OF_MEMORY
    assert sorted(driver.CUresult(code).name for code in STICKY) == [
        f"CUDA_ERROR_{name}" for name in FATAL
    ]


PYCUDA = [
    "Error",
    "init",
    "Device.name",
    "Device.compute_capability",
    "Device.retain_primary_context",
    "Context.push",
    "Context.pop",
    "Context.get_current",
    "Stream.synchronize",
    "Stream.handle",
    "DeviceMemoryPool.allocate",
    "PooledDeviceAllocation.free",
    "PooledDeviceAllocation.__int__",
    "memcpy_htod_async",
    "memcpy_dtoh_async",
    "memcpy_dtod_async",
    "module_from_buffer",
    "Module.get_function",
    "Function.set_attribute",
    "Function.__call__",
    "function_attribute.MAX_DYNAMIC_SHARED_SIZE_BYTES",
]


def test_pycuda_has_everything_that_is_used():
    driver = pytest.importorskip(
        "pycuda.driver",
        reason="pycuda is not installed, or there is no driver",
        exc_type=ImportError,
    )
    for path in PYCUDA:
        found = driver
        for name in path.split("."):
            assert hasattr(found, name), f"pycuda.driver has no {path}"
            found = getattr(found, name)
