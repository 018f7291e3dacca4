"""Vision transformers: rows of tokens as feature maps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.bare_models import RGB, SIZE
from klieg.export import export_classifier
from klieg.model_file.explainer_file import read_explainer


class Tokens(torch.nn.Module):
    """A small vision transformer."""

    def __init__(self, *, extra: int, any_size: bool) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 8, 8)
        self.extra = torch.nn.Parameter(torch.randn(1, extra, 8)) if extra else None
        places = (SIZE // 8) ** 2 + extra
        self.places = None if any_size else torch.nn.Parameter(torch.randn(1, places, 8))
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.head = torch.nn.Linear(8, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        if self.extra is not None:
            tokens = torch.cat([self.extra.expand(images.shape[0], -1, -1), tokens], dim=1)
        if self.places is not None:
            tokens = tokens + self.places
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens[:, 0] if self.extra is not None else tokens.mean(dim=1))


@pytest.mark.parametrize(("extra", "any_size"), [(1, False), (2, False), (0, True), (1, True)])
def test_tokens(extra: int, any_size: bool, tmp_path: Path) -> None:
    """The default layer is the last one whose cells matter: the input of the last attention."""
    torch.manual_seed(0)
    net = Tokens(extra=extra, any_size=any_size).eval()
    report = export_classifier(net, tmp_path / "x.onnx", input_size=SIZE, **RGB)
    if extra:
        assert report.layer == "blocks.1.norm1"
    assert report.fixed_size != any_size
    assert report.parity["gradient"] < 1e-5
    facts = read_explainer(tmp_path / "x.onnx").facts
    cells = ("rows", "columns") if any_size else (4, 4)
    assert facts.outputs["activation"].shape == ("batch", 8, *cells)
