"""Launches one kernel that is wrong on purpose: `python run_fault.py NAME`, under a sanitizer."""

from __future__ import annotations

import sys

import numpy as np

from helpers.cpu_build import SHIM
from helpers.cpu_device import CpuDevice
from klieg.kernels.cuda.kernels import Kernels
from klieg.kernels.device.array import DeviceArray

if __name__ == "__main__":
    device = CpuDevice([SHIM / "self_test.cu"])
    kernels = Kernels(device)
    values = DeviceArray.of(device, np.ones(512, dtype=np.float32))
    result = DeviceArray.empty(device, (512,), np.float32)
    short = DeviceArray.of(device, np.ones(256, dtype=np.float32))
    if sys.argv[1] == "fine":
        kernels.launch("reverse", (2, 1, 1), values, result, 1, shared=1024)
        kernels.launch("reverse_static", (2, 1, 1), values, result)
        kernels.launch("read_past_the_end", (1, 1, 1), values, result)  # 512 values are enough
    elif sys.argv[1] == "read_past_the_end":
        kernels.launch("read_past_the_end", (1, 1, 1), short, result)
    elif sys.argv[1] == "write_past_shared":
        kernels.launch("write_past_shared", (1, 1, 1), 1020, shared=1020)
    elif sys.argv[1] == "missing_barrier":
        kernels.launch("reverse", (2, 1, 1), values, result, 0, shared=1024)
    elif sys.argv[1] == "same_place_in_every_block":
        kernels.launch("same_place_in_every_block", (2, 1, 1), result)
