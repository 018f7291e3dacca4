"""The real cuda.core over a driver without a GPU: what the driver is asked for, call by call."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fake_libcuda import run_over_fake_libcuda

SCENARIO = Path(__file__).with_name("cuda_core_scenario.py")
LAUNCH = "cuLaunchKernelEx grid {} block {} 1 1 shared {} stream 5000 arguments -7 7f0000000000 1.5"
ONE_BLOCK = LAUNCH.format("1 1 1", 32, "{}")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    pytest.importorskip("cuda.core", reason="cuda.core is not installed")
    record = run_over_fake_libcuda(SCENARIO, tmp_path_factory.mktemp("fake_libcuda"))
    return record.splitlines()


@pytest.fixture(scope="module")
def steps(lines: list[str]) -> dict[str, list[str]]:
    """What was recorded in each step, without the contexts of the notes."""
    found: dict[str, list[str]] = {}
    calls: list[str] = []
    for line in lines:
        text = re.sub(r"^\[[\d ]*\] ", "", line)
        if text.startswith("== "):
            calls = found[text[3:]] = []
        else:
            calls.append(text)
    return found


def test_contexts_are_in_balance(lines):
    """The scenario begins in a context on GPU 1, and in its threads there is none."""
    notes = [line for line in lines if line.startswith("[")]
    assert [note for note in notes if not note.startswith("[1] ")] == ["[] [0. 1. 2. 3. 4. 5.]"]
    assert notes[-1] == "[1] == leaving"


def test_opening(steps):
    assert steps["opening"] == [
        "cuDevicePrimaryCtxRetain gpu 0",
        "cuStreamCreateWithPriority flags 1 stream 5000",  # does not wait for the default stream
        "Fake 0, (9, 0), 5000, 13.0",
        "Gpu(index=1, name='Fake 1', architecture=(9, 0), memory=17179869184)",
    ]


def test_copies(steps):
    copy_in = [
        "cuMemAllocFromPoolAsync 24 bytes stream 5000",
        "cuMemcpyHtoDAsync 24 bytes stream 5000",
    ]
    copy_out = ["cuMemcpyDtoHAsync 24 bytes stream 5000", "cuStreamSynchronize stream 5000"]
    assert steps["copying"] == [*copy_in, *copy_out, "[0. 1. 2. 3. 4. 5.]"]
    assert steps["copying on the GPU"] == [
        "cuMemcpyDtoDAsync 7f0000000004 from 7f0000000010 8 bytes stream 5000",
        *copy_out,
        "[0. 4. 5. 3. 4. 5.]",
    ]
    asked, said = steps["copying on the GPU in vain"]
    assert asked == "cuMemcpyDtoDAsync 7f0000000000 from 7e0000000000 8 bytes stream 5000"
    assert re.match(r"DeviceError: .*copying 8 bytes on the GPU failed: .*still be used", said)
    assert steps["copying pinned memory"] == [copy_in[1], copy_out[1]]
    freed = "cuMemFreeAsync 7f0000000100 stream 5000"
    assert steps["copying in a thread"] == [*copy_in, *copy_out, freed, "[0. 1. 2. 3. 4. 5.]"]


def test_code(steps):
    fatbin, cubin, ptx = "50", "7f", "2e"
    assert steps["loading"] == [f"cuLibraryLoadData {first}" for first in (fatbin, cubin, ptx)]
    refused, not_loaded, not_found = steps["loading in vain"]
    assert refused == f"cuLibraryLoadData {cubin} -> 209"
    assert re.match(r"DeviceError: .*loading 6 bytes .*no kernel image .*\(209\)", not_loaded)
    assert re.match(r"DeviceError: .*'klieg_other' failed: .*\(500\)", not_found)


def test_launches(steps):
    assert steps["launching"] == [LAUNCH.format("3 2 1", 256, 0)]
    assert steps["launching with shared memory"] == [
        ONE_BLOCK.format(49_152),
        "cuKernelSetAttribute 8 60000 gpu 0",
        ONE_BLOCK.format(60_000),
        ONE_BLOCK.format(60_000),
    ]
    refused, said = steps["launching in vain"]
    assert refused == f"{ONE_BLOCK.format(0)} -> 1"
    assert re.match(r"DeviceError: .*launching klieg_k failed: .*can still be used", said)


def test_graphs(steps):
    begin, launch, said, *end = steps["recording"]
    assert begin == "cuStreamBeginCapture stream 5000 mode 1"  # thread_local
    assert launch == ONE_BLOCK.format(0)
    assert re.match("DeviceError: .*is recording, and allocating 4 bytes", said)
    assert end == [
        "cuStreamEndCapture stream 5000",
        "cuGraphInstantiateWithParams",
        "cuGraphDestroy",
    ]
    assert steps["replaying"] == ["cuGraphLaunch stream 5000"] * 2
    assert steps["dropping the graph"] == ["cuGraphExecDestroy"]


def test_a_full_memory(steps):
    refused, asked, said, *small = steps["filling the memory"]
    assert refused == "cuMemAllocFromPoolAsync 1000000000 bytes stream 5000 -> 2"
    assert asked == "cuMemGetInfo"
    assert re.match("DeviceMemoryError: .*1,000,000,000 bytes, 12,345 bytes are free", said)
    assert small == [
        "cuMemAllocFromPoolAsync 16 bytes stream 5000",
        "cuMemFreeAsync 7f0000000200 stream 5000",
    ]


@pytest.mark.parametrize(
    ("given", "own", "theirs"),  # as klieg and as cuda.core call it
    [
        ("handle", "5001", "5001"),
        ("object", "5001", "5001"),
        ("default handle", "1", "1"),
        ("default object", "1", "0"),
    ],
)
def test_a_stream_of_others(steps, given, own, theirs):
    assert steps[f"sharing a stream: {given}"] == [
        f"cuMemAllocFromPoolAsync 24 bytes stream {theirs}",
        f"cuMemcpyHtoDAsync 24 bytes stream {own}",
        own,
    ]
    assert steps[f"sharing an array: {given}"] == [
        "cuEventCreate flags 2",  # without timing
        f"cuEventRecord stream {own}",
        "cuStreamWaitEvent stream 5000",
        "cuEventDestroy",
        "True",
    ]
    sync, free = steps[f"dropping an array: {given}"]  # where no context is current
    assert sync == f"cuStreamSynchronize stream {theirs}"
    assert re.fullmatch(rf"cuMemFreeAsync \w+ stream {theirs}", free)


def test_a_stream_of_another_gpu(steps):
    assert steps["refusing a stream"][-1] == (
        "OptionError: the stream is of GPU 1, but GPU 0 was asked for: open the device with index=1"
    )


def test_closing(steps):
    *_, sync, said = steps["closing"]
    assert sync == "cuStreamSynchronize stream 5003"
    assert said == "DeviceError: device cuda.core:1 is closed: open it again"
    assert steps["dropping the last memory"] == [
        "cuMemFreeAsync 7f0000000700 stream 5003",
        "cuStreamDestroy stream 5003",
    ]


def test_a_fatal_failure(steps):
    *calls, said = steps["failing for good"]
    assert calls == [
        "cuStreamSynchronize stream 5000 -> 700",
        "cuMemFreeAsync 7f0000000000 stream 5000 -> 700",
        "cuStreamDestroy stream 5000 -> 700",
    ]
    assert re.match(r"DeviceError: .*illegal memory access .*\(700\): the GPU refuses", said)
    assert len(steps["having failed"]) == 2  # the driver is not asked again
    for said in steps["having failed"]:
        assert re.match(r"DeviceError: .*earlier failure .*\(700\)", said)


def test_everything_is_given_back(lines):
    """All memory, and every stream but those of somebody else."""
    record = "\n".join(lines)
    allocated = re.findall(r"cuMemAllocFromPoolAsync \d+ bytes stream \w+$", record, re.MULTILINE)
    freed = re.findall(r"cuMemFreeAsync (\w+)", record)
    assert len(set(freed)) == len(freed) == len(allocated)
    assert re.findall(r"cuStreamDestroy stream (\w+)", record) == ["5003", "5000"]
