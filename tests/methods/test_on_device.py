"""Methods from images to maps on a device, the CPU in a GPU's place, against the host's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from helpers.cpu_device import CpuDevice
from helpers.small_net import MEAN, STD, small_net
from klieg import Explainer, Explanation, OnnxRuntime, TensorRT
from klieg.backends import named_engine
from klieg.backends.onnxruntime.device import MEMORY
from klieg.errors import (
    BackendError,
    DeviceMemoryError,
    ImageError,
    InputError,
    NumericalError,
    OptionError,
)
from klieg.export import export_classifier
from klieg.export.parity import original as parity
from klieg.kernels.device.array import DeviceArray

SCALES = (32, 45, 77)


@dataclass(frozen=True)
class OnGpu:
    """An array of another library, as a device sees it."""

    array: DeviceArray

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.array.__cuda_array_interface__

    def __len__(self) -> int:
        return self.array.shape[0]


class NothingBack(CpuDevice):
    """Counts copies on the device, and never hands out images that somebody put there."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0
        self.images: DeviceArray | None = None

    def put(self, images: np.ndarray, *, after: int = 0) -> OnGpu:
        """Return images on the device, behind some bytes of something else."""
        whole = DeviceArray.empty(self, (after + images.nbytes,), np.uint8)
        self.images = DeviceArray(whole.pointer + after, images.shape, images.dtype, whole)
        self.images.fill(self, images)
        return OnGpu(self.images)

    def copy_across(self, source: Any, destination: Any) -> None:
        self.copies += 1
        super().copy_across(source, destination)

    def copy_out(self, source: Any, destination: np.ndarray) -> None:
        assert self.images is not None
        assert destination.shape[1:] != self.images.shape[1:]
        assert not 0 <= source.pointer - self.images.pointer < self.images.size
        super().copy_out(source, destination)


@pytest.fixture(scope="module")
def one_class_explainer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `small_explainer`, but taken for a graph that hides how it depends on the batch."""
    path = tmp_path_factory.mktemp("one-class") / "small.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "of_several_targets", lambda *_, **__: np.inf)
        report = export_classifier(small_net(), path, input_size=32, mean=MEAN, std=STD)
    assert not report.several_targets
    return path


@pytest.fixture(autouse=True)
def host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ONNX Runtime compute in the memory of the CPU in a GPU's place."""
    monkeypatch.setitem(MEMORY, "CPUExecutionProvider", "cpu")


def opened(path: Path, device: CpuDevice) -> Explainer:
    engine = OnnxRuntime(providers=["CPUExecutionProvider"], device=device)
    return Explainer(path, backend=engine)


def photos(count: int, channels: int = 3) -> np.ndarray:
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (count, 32, 32, channels), dtype=np.uint8)


def as_given(images: np.ndarray, dtype: type) -> np.ndarray:
    """Return photos as images on a GPU may be."""
    return images if dtype == np.uint8 else images.transpose(0, 3, 1, 2).astype(dtype)


def assert_same(got: Explanation, truth: Explanation) -> None:
    np.testing.assert_array_equal(got.targets, truth.targets)
    np.testing.assert_array_equal(got.scales_used, truth.scales_used)
    np.testing.assert_array_equal(got.degenerate, truth.degenerate)
    np.testing.assert_allclose(got.logits, truth.logits, rtol=1e-5, atol=1e-5)
    # Bicubic weights in float32 and tensor cores' 11 bits, relative to the map's largest value.
    scale = np.abs(truth.raw).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(got.raw / scale, truth.raw / scale, atol=3e-3)
    np.testing.assert_allclose(got.maps, truth.maps, atol=5e-3)
    for one, other in zip(got.maps, truth.maps, strict=True):
        if one.std() > 0:
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9999


@pytest.mark.parametrize("target", [None, 3, [1, [2, 0], None]], ids=["predicted", "one", "some"])
def test_cameras(small_explainer: Path, target: Any) -> None:
    images = photos(3)
    with Explainer(small_explainer) as host:
        truth = host.explain(images, target=target, scales=SCALES)
    device = CpuDevice()
    with opened(small_explainer, device) as explainer:
        assert_same(explainer.explain(images, target=target, scales=SCALES), truth)
    assert {launch.name for launch in device.launches} >= {"klieg_gate", "klieg_normalize_maps"}


def test_cameras_where_the_gradient_varies(tmp_path: Path) -> None:
    path = tmp_path / "layer.onnx"
    export_classifier(small_net(), path, layer="features.3", input_size=32, mean=MEAN, std=STD)
    images = photos(2)
    with Explainer(path) as host:
        truth = host.explain(images, target=2, scales=SCALES)
    device = CpuDevice()
    with opened(path, device) as explainer:
        assert_same(explainer.explain(images, target=2, scales=SCALES), truth)
    assert "klieg_contract_f16" in {launch.name for launch in device.launches}


def test_casm(small_explainer_all: Path) -> None:
    images = photos(3)
    with Explainer(small_explainer_all) as host:
        truth = host.explain(images, method="casm")
    with opened(small_explainer_all, CpuDevice()) as explainer:
        got = explainer.explain(images, method="casm", batch_size=2)
    np.testing.assert_allclose(got.maps, truth.maps, atol=1e-6)
    np.testing.assert_array_equal(got.raw, got.maps)
    np.testing.assert_array_equal(got.targets, truth.targets)
    np.testing.assert_array_equal(got.degenerate, truth.degenerate)
    assert got.scales_used.tolist() == [[True]] * 3


def test_other_methods_come_through_the_host(small_explainer: Path) -> None:
    device = CpuDevice()
    with Explainer(small_explainer) as host, opened(small_explainer, device) as explainer:
        got = explainer.explain(photos(2), method="gradcam")
        np.testing.assert_array_equal(got.maps, host.explain(photos(2), method="gradcam").maps)
    assert device.launches == []


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_on_the_device(small_explainer: Path, dtype: type) -> None:
    images = photos(5)
    with Explainer(small_explainer) as host:
        truth = host.explain(images, target=[0, 1, None, 3, 4], scales=SCALES)
    given = as_given(images, dtype)
    device = NothingBack()
    on_gpu = device.put(given)
    shared = on_gpu.array.pointer
    with opened(small_explainer, device) as explainer:
        got = explainer.explain(on_gpu, target=[0, 1, None, 3, 4], scales=SCALES, batch_size=2)
    assert_same(got, truth)
    assert device.copies == 0
    assert got.names == ("0", "1", "2", "3", "4")
    assert got.on_image(4).shape == (32, 32)
    assert got.photos[4].__cuda_array_interface__["data"][0] == shared + 4 * given[0].nbytes
    with pytest.raises(InputError, match="photo is on a GPU"):
        got.save("/nonexistent")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(("file", "copies"), [("small_explainer", 0), ("one_class_explainer", 9)])
def test_several_classes_of_images_on_the_device(
    request: pytest.FixtureRequest, file: str, copies: int, dtype: type
) -> None:
    path: Path = request.getfixturevalue(file)
    images, target = photos(5), [[1, 2], 3, [0, None, 4], [2], [1, 1]]
    with Explainer(path) as host:
        truth = host.explain(images, target=target, scales=SCALES)
    device = NothingBack()
    on_gpu = device.put(as_given(images, dtype), after=4)  # no row is aligned as engines want it
    with opened(path, device) as explainer:
        got = explainer.explain(on_gpu, target=target, scales=SCALES, batch_size=2)
    assert_same(got, truth)
    assert got.names == truth.names == ("0", "0", "1", "2", "2", "2", "3", "4", "4")
    assert device.copies == copies  # with one class per image a row of each question


def test_images_as_a_device_array(small_explainer: Path) -> None:
    images, device = photos(2), CpuDevice()
    with opened(small_explainer, device) as explainer:
        got = explainer.explain(DeviceArray.of(device, images), scales=SCALES)
        np.testing.assert_array_equal(got.maps, explainer.explain(images, scales=SCALES).maps)


def test_images_on_the_device_of_another_form(small_explainer: Path) -> None:
    device = CpuDevice()
    with opened(small_explainer, device) as explainer:
        for images in (photos(2)[:, :31], photos(2).astype(np.float32), photos(2)[0]):
            with pytest.raises(ImageError, match=r"expected uint8 \[B, 32, 32, 3\]"):
                explainer.explain(OnGpu(DeviceArray.of(device, images)))
        on_gpu = OnGpu(DeviceArray.of(device, photos(2)))
        with pytest.raises(OptionError, match="computes on the host"):
            explainer.explain(on_gpu, method="gradcam")
    with Explainer(small_explainer) as host, pytest.raises(ImageError, match="takes host arrays"):
        host.explain(on_gpu)


def test_nan_in_the_logits(small_explainer: Path, tmp_path: Path) -> None:
    model = onnx.load(small_explainer)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("head.bias"):
            broken = onnx.numpy_helper.from_array(np.full(5, np.nan, np.float32), tensor.name)
            tensor.CopyFrom(broken)
    onnx.save(model, tmp_path / "nan.onnx")
    message = "logits for image 0 of the batch at 32 x 32"
    with (
        opened(tmp_path / "nan.onnx", CpuDevice()) as explainer,
        pytest.raises(NumericalError, match=message),
    ):
        explainer.explain(photos(2), scales=SCALES)


def test_memory_that_runs_out_is_freed(
    small_explainer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, waited = CpuDevice(records=True), []
    with opened(small_explainer, device) as explainer:
        truth = explainer.explain(photos(4), scales=SCALES)
        assert device.held == 0
        device.limit = 200_000  # the images of the largest scale have 280,000 bytes
        monkeypatch.setattr(device, "synchronise", lambda: waited.append(device.held))
        with pytest.raises(DeviceMemoryError):
            explainer.explain(photos(4), scales=SCALES)
        assert len(waited) == 1  # for those who still read the images, which may be anybody's
        assert device.held == 0
        device.limit = 10**9
        again = explainer.explain(photos(4), scales=SCALES)
    np.testing.assert_array_equal(again.maps, truth.maps)


def test_addresses_of_a_gpu_are_not_given_to_the_processor(
    small_explainer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(MEMORY, "CPUExecutionProvider")
    with pytest.raises(OptionError, match="computes on the GPU"):
        opened(small_explainer, CpuDevice())


def test_what_does_not_go_together(small_explainer: Path) -> None:
    with pytest.raises(OptionError, match="choose how to drive it"):
        Explainer(small_explainer, backend="tensorrt")
    with pytest.raises(OptionError, match="has no option 'engines'"):
        named_engine("onnxruntime", engines="somewhere")
    for option in ({"providers": ["CPUExecutionProvider"]}, {"threads": 1}):
        with pytest.raises(OptionError, match="backend 'tensorrt' has no"):
            named_engine("tensorrt", device=CpuDevice(), **option)
    with pytest.raises(OptionError, match="first"):
        Explainer(small_explainer, backend=OnnxRuntime(providers=["NoSuch"], device=CpuDevice()))
    with pytest.raises(OptionError, match="backend 'onnxruntime' has no option 'replay'"):
        named_engine("onnxruntime", replay=True)
    with pytest.raises(OptionError, match="records CUDA graphs"):
        Explainer(small_explainer, backend=TensorRT(device=CpuDevice(), replay=True))
    with pytest.raises(BackendError, match="has no"):  # this build has no CUDA, and says so
        Explainer(small_explainer, backend=OnnxRuntime(device=CpuDevice()))
