"""Prune a U-Net for masks and a network for several labels: saliency, prune, tune, eval, report.

Both data sets are generated, so nothing is downloaded. Usage:

    python medical.py [OUTPUT_FOLDER] [EPOCHS]
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import filtersurgeon as fs

SIZE = (1, 48, 48)
IMAGES = 128


class UNet(nn.Module):
    """Two levels down and two up, joined at each."""

    def __init__(self, num_classes: int = 1) -> None:
        super().__init__()
        self.first, self.second, self.lowest = block(1, 8), block(8, 16), block(16, 16)
        self.up_second, self.up_first = block(32, 8), block(16, 8)
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give scores of every pixel, (n, classes, height, width)."""
        high = self.first(images)
        middle = self.second(functional.max_pool2d(high, 2))
        low = self.lowest(functional.max_pool2d(middle, 2))
        middle = self.up_second(torch.cat([middle, functional.interpolate(low, scale_factor=2)], 1))
        high = self.up_first(torch.cat([high, functional.interpolate(middle, scale_factor=2)], 1))
        return self.head(high)


class Finder(nn.Module):
    """Four blocks, the greatest answer of each channel, and one output for each label."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            block(1, 8), nn.MaxPool2d(2), block(8, 16), nn.MaxPool2d(2), block(16, 16)
        )
        self.head = nn.Linear(16, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give scores of the labels, (n, classes)."""
        return self.head(self.blocks(images).amax((2, 3)))


def block(before: int, after: int) -> nn.Sequential:
    """Give a convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )


def train(network: fs.Checkpoint, data: str, epochs: int) -> fs.Checkpoint:
    """Train on the train split of a data set, and give the trained network."""
    images = fs.TrainingImages(f"{data}:{IMAGES}")
    recipe = fs.TrainingRecipe(lr=0.01, schedule="none")
    run = fs.RunSettings(epochs=epochs, batch_size=8, device="cpu")
    tuned, result = fs.tune(network, images, recipe, run)
    print(f"  trained: loss {result.history[-1].train_loss:.3f}")
    return tuned


def measure(network: fs.Checkpoint, data: str) -> float:
    """Evaluate on the test split of a data set, and give the score."""
    found = fs.evaluate(network, f"{data}:{IMAGES}")
    print(f"  {found.score_name} {found.score:.1%} on {found.n_images} images")
    return float(found.score)


def prune_and_train(module: nn.Module, data: str, folder: Path, epochs: int) -> tuple[float, float]:
    """Train a network, prune it by saliency, train it again, and write a report about both."""
    name = type(module).__name__.lower()
    print(f"{name} on {data}")
    network = train(fs.load(module, example_inputs=SIZE), data, epochs)
    before = measure(network, data)
    images = fs.DataSpec(f"{data}:{IMAGES}", subset=32)
    print(f"  {fs.rank(network, 'saliency', data=images)}")
    pruned = fs.prune(network, sparsity=0.4, per_layer=True, method="saliency", data=images)
    share = pruned.parameters / network.parameters
    print(f"  pruned: {share:.0%} of the parameters")
    tuned = train(pruned, data, epochs)
    after = measure(tuned, data)
    settings = fs.ReportSettings(fs.DataSpec(f"{data}:{IMAGES}"), "saliency", latency_runs=0)
    titles = fs.write_report(tuned, folder / f"{name}.html", network, settings, tell=print)
    print(f"  {name}.html: {', '.join(titles)}")
    fs.save(tuned, folder / f"{name}.safetensors", force=True)
    return before, after


def main(folder: str, epochs: int = 4) -> dict[str, tuple[float, float]]:
    """Do so with both networks; give the scores before and after."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    return {
        data: prune_and_train(module, data, Path(folder), epochs)
        for module, data in ((UNet(), "cells"), (Finder(), "findings"))
    }


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "medical", int((*sys.argv, 4)[2]))
