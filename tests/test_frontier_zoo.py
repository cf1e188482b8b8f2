"""The small networks of ``benchmarks.frontier_zoo``: what is cut of them, and how masks count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import filtersurgeon as fs
from benchmarks import frontier_networks
from benchmarks.frontier import Row, Subject, _overlap, page
from benchmarks.frontier_zoo import draw_masks
from filtersurgeon.data.data import DataSpec, open_data
from filtersurgeon.data.preprocess import read_preprocessing
from filtersurgeon.graph.opened_model import open_model
from filtersurgeon.graph.program import record_program
from filtersurgeon.pruning.reconstruction.layers import survey


@pytest.mark.parametrize(
    ("name", "count", "among"),
    [
        # Stem, two of every layer, two transitions: nothing that is concatenated is left out.
        ("densenet", 1 + 3 * 4 * 2 + 2, {"features.0": 20, "features.7": 30}),
        ("convnext", 6, {"stages.2.blocks.1.mlp.fc1": 384}),
        # Skips and transposed convolutions, too.
        ("unet", 12, {"down1.body.3": 12, "widen2": 24, "widen1": 12}),
    ],
)
def test_bundles_of_other_networks_are_cut(
    name: str, count: int, among: dict[str, int], tmp_path: Path
) -> None:
    network = getattr(frontier_networks, name)().eval().requires_grad_(False)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    architecture = f"factory:benchmarks.frontier_networks:{name}"
    opened = open_model(fs.load(tmp_path / "weights.pt", arch=architecture))
    found = survey(opened, record_program(network, torch.randn(2, 3, 32, 32)))
    widths = {candidate.name: candidate.width for candidate in found.candidates}
    assert (len(widths), found.kept) == (count, {})
    assert among.items() <= widths.items()


def test_masks_are_drawn_anew_alike_and_hold_every_class() -> None:
    images, masks = draw_masks(20, seed=3)
    again, others = draw_masks(20, seed=3)
    assert (images == again).all()
    assert (masks == others).all()
    assert images.shape == (20, 32, 32, 3)
    assert masks.shape == (20, 32, 32)
    assert np.unique(masks).tolist() == [0, 1, 2, 3]
    # Neither the background alone nor shapes alone.
    assert 0.2 < (masks > 0).mean() < 0.8


def test_overlap_counts_pixels_of_shapes(tmp_path: Path) -> None:
    masks = np.zeros((2, 4, 4), np.int64)
    masks[:, 0] = 1
    masks[:, 1] = 2
    path = tmp_path / "shapes.npz"
    np.savez(path, x=np.zeros((2, 4, 4, 3), np.uint8), y=np.array([0, 1]), masks=masks)
    images = open_data(DataSpec(str(path)), read_preprocessing({"input_size": [3, 4, 4]}), 3)

    class Fixed(nn.Module):
        """Finds class 1 in the first three rows."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = x.new_zeros(len(x), 3, 4, 4)
            scores[:, 1, :3] = 1
            return scores

    # A row is right, one has another class (found and wanted: twice), one is found in vain.
    assert _overlap(Fixed(), images, path) == (2 * 4, 2 * (4 + 8 + 4))


def test_best_of_a_column_has_the_size() -> None:
    subject = Subject("Net", "net.safetensors", "timm:net", {})
    rows = [
        Row("Net", "ours", 0.7, 0.7, 60, 100),
        Row("Net", "torch-pruning: bn-scale", 0.7, 1.0, 90, 100),
        Row("Net", "ranking: l2", 0.7, 0.64, 50, 100),
    ]
    found = page(rows, [subject])
    assert "| ours |  | **60.0** |" in found
    # Not cut at all.
    assert "| torch-pruning: bn-scale |  | 90.0 (100.0%) |" in found
    assert "| ranking: l2 |  | 50.0 (64.0%) |" in found
