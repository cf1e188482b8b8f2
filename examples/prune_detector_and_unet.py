"""Prune a detector of torchvision and a U-Net in memory, train both, prune again, and save them.

The weights are random, and so is the data: put in your own. Usage:

    python prune_detector_and_unet.py [OUTPUT_FOLDER]
"""

import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

import filtersurgeon as fs

SIDE = 128
CUTS = 2
STEPS = 2


class Raw(nn.Module):
    """A one-stage detector up to the outputs of its heads.

    What follows chooses boxes by their scores. It has no parameters, and cannot be followed without
    data.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give scores and offsets of all anchors for images, (n, 3, height, width)."""
        return self.head(list(self.backbone(images).values()))


class UNet(nn.Module):
    """Two levels down, two up, joined at each."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.second, self.lowest = block(3, 16), block(16, 32), block(32, 64)
        self.up_second = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.after_second = block(64, 32)
        self.up_first = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.after_first = block(32, 16)
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give scores of every pixel, (n, classes, height, width)."""
        high = self.first(images)
        middle = self.second(functional.max_pool2d(high, 2))
        low = self.lowest(functional.max_pool2d(middle, 2))
        middle = self.after_second(torch.cat([middle, self.up_second(low)], 1))
        high = self.after_first(torch.cat([high, self.up_first(middle)], 1))
        return self.head(high)


def block(before: int, after: int) -> nn.Sequential:
    """Give a convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )


def train_detector(detector: nn.Module) -> float:
    """Train for some steps on random images with a box in each, and give the last loss."""
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-4)
    loss = torch.zeros(())
    for _ in range(STEPS):
        images = [torch.rand(3, SIDE, SIDE) for _ in range(2)]
        box = torch.tensor([[20.0, 20.0, 100.0, 100.0]])
        targets = [{"boxes": box, "labels": torch.tensor([1])} for _ in images]
        loss = sum(detector.train()(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def train_unet(unet: nn.Module) -> float:
    """Train for some steps on random images and masks, and give the last loss."""
    optimizer = torch.optim.SGD(unet.parameters(), lr=0.01)
    loss = torch.zeros(())
    for _ in range(STEPS):
        images, masks = torch.rand(2, 3, 64, 64), torch.randint(4, (2, 64, 64))
        loss = functional.cross_entropy(unet.train()(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def count(module: nn.Module) -> int:
    """Count parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def main(folder: str) -> None:
    """Prune each network twice, with training after each cut; optimizers are made anew."""
    torch.manual_seed(0)
    detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    detector.transform.fixed_size = (SIDE, SIDE)  # instead of 320, to be quick
    raw = Raw(detector)  # shares its modules with the detector, which is pruned with it
    unet: nn.Module = UNet(classes=4)
    for cut in range(1, CUTS + 1):
        fs.prune(raw, (3, SIDE, SIDE), sparsity=0.25, per_layer=True, method="l2", copy=False)
        loss = train_detector(detector)
        print(f"detector after cut {cut}: {count(detector)} parameters, loss {loss:.2f}")
        unet = fs.prune(unet, (3, 64, 64), sparsity=0.25, per_layer=True, method="l2")
        print(f"U-Net after cut {cut}: {count(unet)} parameters, loss {train_unet(unet):.2f}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, module, size in (("detector", raw, SIDE), ("unet", unet, 64)):
        path = Path(folder, f"{name}.safetensors")
        fs.save(fs.load(module, example_inputs=(3, size, size)), path, force=True)
        print(f"saved {path}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "pruned")
