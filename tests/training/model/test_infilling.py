from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from scipy.ndimage import correlate1d

from klieg.errors import OptionError
from klieg.training.model.infilling import Infiller, blurred, open_infiller

MEAN, STD = (0.4, 0.5, 0.45), (0.2, 0.25, 0.3)


def opened(name: str | Path, device: str = "cpu") -> Infiller:
    return open_infiller(str(name), mean=MEAN, std=STD, device=torch.device(device))


def normalised(colours: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (colours - mean) / std


def drawn(batch: int = 2, shape: tuple[int, int] = (20, 14)) -> tuple[torch.Tensor, torch.Tensor]:
    """Return colours in 0..1 and a kept mask with 0, 1 and what is between."""
    torch.manual_seed(0)
    kept = (3 * torch.rand(batch, 1, *shape) - 1).clamp(0, 1)
    return torch.rand(batch, 3, *shape), kept


def test_mean_is_zero_once_normalised() -> None:
    colours, kept = drawn()
    got = opened("mean")(normalised(colours), kept)
    torch.testing.assert_close(got, normalised(colours) * kept, rtol=0, atol=0)


def test_black() -> None:
    colours, kept = drawn()
    got = opened("black")(normalised(colours), kept)
    # Composition and normalisation commute: both are linear, up to rounding.
    torch.testing.assert_close(got, normalised(colours * kept), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (7, 30), (224, 90)])
@pytest.mark.parametrize("sigma", [20, 1.3])
def test_blur_equals_scipy(shape: tuple[int, int], sigma: float) -> None:
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    radius = math.ceil(4 * sigma)
    weights = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    expected = images.numpy().astype(float)
    for axis in (2, 3):
        expected = correlate1d(expected, weights / weights.sum(), axis, mode="constant", cval=0)
    np.testing.assert_allclose(blurred(images, sigma).numpy(), expected, atol=1e-5)


def test_blur_is_zero_outside_and_of_the_whole_image() -> None:
    colours = torch.ones(1, 3, 224, 224)
    blur = blurred(colours)
    assert float(blur[0, 0, 112, 112]) == pytest.approx(1, abs=1e-3)
    assert float(blur[0, 0, 0, 112]) == pytest.approx(0.5, abs=0.02)
    assert float(blur[0, 0, 0, 0]) == pytest.approx(0.25, abs=0.02)
    colours, kept = drawn()
    got = opened("blur")(normalised(colours), kept)
    expected = normalised(colours * kept + blurred(colours) * (1 - kept))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_telea() -> None:
    colours, kept = drawn()
    colours = (colours * 255).round() / 255
    got = opened("telea")(normalised(colours), kept)
    for image, shown, result in zip(colours, kept, got, strict=True):
        picture = (image * 255).round().byte().permute(1, 2, 0).numpy()
        hole = (1 - shown[0] > 0.5).byte().numpy()
        filled = cv2.inpaint(picture, hole, 3, cv2.INPAINT_TELEA).transpose(2, 0, 1) / 255
        expected = image * shown + torch.from_numpy(filled).float() * (1 - shown)
        torch.testing.assert_close(result, normalised(expected)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mean", "black", "blur", "telea"])
def test_ends_of_the_mask(name: str) -> None:
    colours, _ = drawn()
    image = normalised(colours)
    torch.testing.assert_close(opened(name)(image, torch.ones(2, 1, 20, 14)), image)


@pytest.mark.parametrize("name", ["black", "blur", "telea"])
def test_the_mask_learns_through_the_composition_alone(name: str) -> None:
    colours, kept = drawn()
    image = normalised(colours)
    leaf = kept.clone().requires_grad_()
    infill = opened(name)
    assert infill.fill is not None
    result = infill(image, leaf)
    result.sum().backward()
    fill = normalised(infill.fill(colours, 1 - kept))
    # d/dkept of image * kept + fill * (1 - kept), the fill being constant.
    expected = (image - fill).sum(dim=1, keepdim=True)
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-3, atol=1e-3)


def test_a_fill_that_sees_the_mask_carries_no_gradient_to_it() -> None:
    colours, kept = drawn()
    leaf = kept.clone().requires_grad_()
    one = torch.ones(1, 3, 1, 1)
    infill = Infiller(0 * one, one, lambda images, missing: images * missing)
    infill(colours, leaf).sum().backward()
    expected = (colours - colours * (1 - kept)).sum(dim=1, keepdim=True)
    torch.testing.assert_close(leaf.grad, expected)


def onnx_network(path: Path, *, inputs: int = 2, channels: int = 3) -> Path:
    """Write a network that returns (image + missing) / 2."""
    shape = ["n", channels, "h", "w"]
    values = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, shape),
        helper.make_tensor_value_info("missing", TensorProto.FLOAT, ["n", 1, "h", "w"]),
    ][:inputs]
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    nodes = [
        helper.make_node("Add", ["image", values[-1].name], ["sum"]),
        helper.make_node("Mul", ["sum", "half"], ["filled"]),
    ]
    output = helper.make_tensor_value_info("filled", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "fill", values, [output], [half])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


class Half(torch.nn.Module):
    def forward(self, image: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        return (image + missing) / 2


class TooSmall(torch.nn.Module):
    def forward(self, image: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
        return image[:, :, :1, :1]


def torchscript(path: Path, module: torch.nn.Module) -> Path:
    torch.jit.save(torch.jit.script(module), str(path))
    return path


# torch has another format for new files; what users have are files in this one.
old_format = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)


@old_format
@pytest.mark.parametrize("kind", ["onnx", "pt"])
def test_inpainting_networks(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"fill.{kind}"
    if kind == "onnx":
        onnx_network(path)
    else:
        torchscript(path, Half())
    colours, kept = drawn()
    got = opened(path)(normalised(colours), kept)
    fill = (colours * kept + (1 - kept)) / 2  # the network sees 0 where the image is missing
    expected = normalised(colours * kept + fill * (1 - kept))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_network_runs_where_the_images_are_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"ONNX Runtime cannot run .* on meta"):
        opened(onnx_network(tmp_path / "fill.onnx"), device="meta")


@old_format
def test_unusable_networks(tmp_path: Path) -> None:
    for name in ("grey", str(tmp_path / "missing.onnx"), str(tmp_path)):
        with pytest.raises(OptionError, match="expected mean, black, blur, telea"):
            opened(name)
    with pytest.raises(OptionError, match=r"has the inputs \['image'\], expected two"):
        opened(onnx_network(tmp_path / "one.onnx", inputs=1))
    for name in ("garbage.onnx", "garbage.pt"):
        (tmp_path / name).write_bytes(b"no network")
        with pytest.raises(OptionError, match=f"cannot read .*{name}"):
            opened(tmp_path / name)
    infill = opened(torchscript(tmp_path / "small.pt", TooSmall()))
    colours, kept = drawn()
    with pytest.raises(OptionError, match=r"infill returns \[2, 3, 1, 1\]"):
        infill(normalised(colours), kept)
