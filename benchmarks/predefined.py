"""A training step of the reduced PFNet18, forward and backward, against ResNet-18's.

Both are timed on the same batch of 224x224 images, once in each layout of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

import filtersurgeon as fs
from benchmarks.measure import Row, in_turn

BATCH, ROUNDS, TARGET = 8, 5, 1.3
GPU_BATCH, GPU_ROUNDS, GPU_TARGET = 64, 20, 1.0


def networks(device: str, layout: torch.memory_format) -> list[nn.Module]:
    """Make the reduced PFNet18 and ResNet-18, both for 102 classes."""
    plain = fs.untrained("timm:resnet18", num_classes=102)
    made = [fs.build(each) for each in (fs.convert(plain, module="reduced-pfm"), plain)]
    return [model.to(device).to(memory_format=layout).train() for model in made]  # type: ignore[call-overload]


def step(model: nn.Module, images: torch.Tensor) -> Callable[[], None]:
    """Give a function that runs forward and backward."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        model(images).sum().backward()
        if images.is_cuda:
            torch.cuda.synchronize()

    return run


def rows(device: str, batch: int, rounds: int, target: float) -> Iterator[Row]:
    """Compare in both layouts."""
    where = "on a GPU" if device == "cuda" else f"{torch.get_num_threads()} threads"
    for layout, words in (
        (torch.contiguous_format, "channels first"),
        (torch.channels_last, "channels last"),
    ):
        images = torch.randn(batch, 3, 224, 224, device=device).to(memory_format=layout)
        pfnet, resnet = (step(model, images) for model in networks(device, layout))
        ours, peer = in_turn(pfnet, resnet, rounds)
        yield Row(
            f"training step of {batch} images, {words}, {where}, PFNet18 : ResNet-18",
            1e3 * ours, 1e3 * peer, "ms", target,
        )  # fmt: skip


def run() -> Iterator[Row]:
    yield from rows("cpu", BATCH, ROUNDS, TARGET)


def run_on_gpu() -> Iterator[Row]:
    yield from rows("cuda", GPU_BATCH, GPU_ROUNDS, GPU_TARGET)
