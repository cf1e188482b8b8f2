"""A study at the papers' scale for one GPU: CIFAR-10 and ResNet-56, carried in one file.

``python -m benchmarks.gpu_study shared/data -o gpu_study.npz`` packs the images of
``cifar10/train_10k.npz`` and ``cifar10/test.npz``, 20,000 in all, and the tensors of
``weights/cifar10_resnet56.safetensors``. ``python -m benchmarks.gpu_check --study gpu_study.npz``
runs the study after all checks, if minutes are left: ResNet-56 pruned to half of its
multiply-accumulates and tuned for 30 epochs, and Table 3 of Thakur, Abrol and Sharma, 2022.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

import filtersurgeon as fs
from benchmarks.frontier import CIFAR
from benchmarks.measure import Row
from filtersurgeon.data.preprocess import Augmentation

MOST_BYTES = 50 << 20
"""A file travels with the working tree, in 64 MiB at most together."""
SIDE, TILES = 32, 50
"""Side of an image, and how many lie side by side in a picture."""
ARCHITECTURE = "factory:examples.zoo.networks:cifar_resnet56"
PARTS = ("train", "test")
_TENSOR = "tensor/"
PRUNE_SECONDS, TABLE_SECONDS = 75.0, 60.0
"""What must be left of the minutes for each to begin."""


@dataclass(frozen=True)
class StudySizes:
    """How much work is done.

    Attributes:
        epochs: of tuning.
        table_epochs: of each training run of the table.
        table_images: of each training run of the table; 0 takes all.
        batch: images of a step.
        target: of pruning.
        methods: rankings that are compared.
        network: the network's name.
        architecture: the network's architecture.
    """

    epochs: int = 30
    table_epochs: int = 3
    table_images: int = 0
    batch: int = 128
    target: str = "macs=0.5x"
    methods: str = "archetype,l1,random"
    network: str = "ResNet-56"
    architecture: str = ARCHITECTURE


SMALL = StudySizes(
    1, 1, 8, 4, "macs=0.8x", "l1", "a small network", "timm:test_resnet(num_classes=10)"
)


def pack(folder: Path, target: Path) -> int:
    """Pack images and tensors into one file; give its size in bytes.

    Args:
        folder: holds ``cifar10/train_10k.npz``, ``cifar10/test.npz`` and ``weights``.
        target: the file.

    Raises:
        SystemExit: something is missing, or the file is too large to travel.
    """
    files = {"train": folder / "cifar10/train_10k.npz", "test": folder / "cifar10/test.npz"}
    weights = folder / "weights/cifar10_resnet56.safetensors"
    absent = [str(path) for path in (*files.values(), weights) if not path.exists()]
    if absent:
        raise SystemExit(f"no such file: {', '.join(absent)}")
    packed: dict[str, np.ndarray] = {}
    for part, path in files.items():
        with np.load(path) as stored:
            packed |= pack_images(part, stored["x"], stored["y"])
    with fs.load(weights, arch=ARCHITECTURE) as network:
        packed |= pack_tensors(network)
    return write_pack(target, packed)


def pack_tensors(network: fs.Checkpoint) -> dict[str, np.ndarray]:
    """Give the tensors of a network; counters of batches are left out."""
    stored = ((name, network[name]) for name in network)
    return {f"{_TENSOR}{name}": tensor.array() for name, tensor in stored if tensor.dtype == "F32"}


def pack_images(part: str, pixels: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Write images ``(n, 32, 32, 3)`` as lossless pictures of many, in two thirds of the bytes."""
    packed = {f"{part}/labels": labels}
    for start in range(0, len(pixels), TILES**2):
        tiles = np.zeros((TILES**2, SIDE, SIDE, 3), np.uint8)
        some = pixels[start : start + TILES**2]
        tiles[: len(some)] = some
        grid = tiles.reshape(TILES, TILES, SIDE, SIDE, 3).swapaxes(1, 2)
        written = BytesIO()
        Image.fromarray(grid.reshape(TILES * SIDE, TILES * SIDE, 3)).save(
            written, "WEBP", lossless=True, method=0, quality=50, exact=True
        )
        packed[f"{part}/{start}"] = np.frombuffer(written.getvalue(), np.uint8)
    return packed


def unpack_images(part: str, packed: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Read images ``(n, 32, 32, 3)`` and labels again."""
    labels, pixels = packed[f"{part}/labels"], []
    for start in range(0, len(labels), TILES**2):
        grid = np.asarray(Image.open(BytesIO(packed[f"{part}/{start}"].tobytes())))
        tiles = grid.reshape(TILES, SIDE, TILES, SIDE, 3).swapaxes(1, 2)
        pixels.append(tiles.reshape(TILES**2, SIDE, SIDE, 3))
    return np.concatenate(pixels)[: len(labels)], labels


def write_pack(target: Path, packed: dict[str, np.ndarray]) -> int:
    """Write a packed file; give its size in bytes.

    Raises:
        SystemExit: it is too large to travel.
    """
    np.savez(target, **packed)  # type: ignore[arg-type]
    size = target.stat().st_size
    if size > MOST_BYTES:
        target.unlink()
        raise SystemExit(f"{size / 2**20:.0f} MiB are too much; {MOST_BYTES >> 20} MiB travel")
    return size


def small_pack(target: Path, images: int = 24) -> None:
    """Write a file of noise and an untrained network, for a dry run."""
    rng = np.random.default_rng(0)
    network = fs.untrained("timm:test_resnet", num_classes=10)
    packed = pack_tensors(network)
    for part in PARTS:
        pixels = rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
        packed |= pack_images(part, pixels, np.arange(images) % 10)
    write_pack(target, packed)


def unpack(source: Path, folder: Path) -> None:
    """Write the images and the network of a packed file as files for the commands."""
    from safetensors.numpy import save_file

    with np.load(source) as stored:
        for part in PARTS:
            pixels, labels = unpack_images(part, stored)
            np.savez(folder / f"{part}.npz", x=pixels, y=labels)
        tensors = {
            name.removeprefix(_TENSOR): stored[name] for name in stored if name.startswith(_TENSOR)
        }
    save_file(tensors, folder / "network.safetensors")


Work = tuple[str, float, Callable[[], list[Row]]]


@contextmanager
def study(source: Path | None, device: str, sizes: StudySizes) -> Iterator[list[Work]]:
    """List the parts of the study: a name, the seconds that must be left, and what to do.

    Args:
        source: the packed file; None packs noise.
        device: where to compute.
        sizes: how much work is done.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        if source is None:
            source = folder / "small.npz"
            small_pack(source)
        unpack(source, folder)
        tiny = sizes == SMALL
        yield [
            (
                f"{sizes.network}, {sizes.target}, tuned for {sizes.epochs} epochs",
                0.0 if tiny else PRUNE_SECONDS,
                lambda: prune_and_tune(folder, device, sizes),
            ),
            (
                f"Table 3, {sizes.table_epochs} epochs",
                0.0 if tiny else TABLE_SECONDS,
                lambda: table(folder, device, sizes),
            ),
        ]


def prune_and_tune(folder: Path, device: str, sizes: StudySizes) -> list[Row]:
    """Prune with images, tune with the original as the teacher; compare top-1 with the original."""
    evaluation = fs.EvaluationSettings(256, device=device)
    test = fs.DataSpec(str(folder / "test.npz"))
    train = fs.DataSpec(str(folder / "train.npz"))

    def top1(network: fs.Checkpoint) -> float:
        found = fs.evaluate(network, test, evaluation, preprocess=CIFAR)
        return 100 * found.top1 / found.n_images

    with fs.load(folder / "network.safetensors", arch=sizes.architecture) as original:
        images = fs.ImageRun(fs.DataSpec(train.source, subset=512), CIFAR, device=device)
        pruned = fs.prune(original, target=sizes.target, data=images)
        run = fs.RunSettings(
            epochs=sizes.epochs, batch_size=sizes.batch, device=device, channels_last=True
        )
        recipe = fs.TrainingRecipe(
            lr=0.02, optimizer="sgd", momentum=0.9, schedule="cosine", weight_decay=5e-4
        )
        augmentation = Augmentation(scale=(0.6, 1.0), color_jitter=0.0)
        start = time.perf_counter()
        tuned, _ = fs.tune(
            pruned, fs.TrainingImages(train, augmentation=augmentation), recipe, run,
            start=fs.TrainingStart(preprocess=CIFAR), teacher=original,
        )  # fmt: skip
        took = time.perf_counter() - start
        found = {"as it is": original, "pruned": pruned, "pruned and tuned": tuned}
        return [
            *(
                Row(f"{sizes.network} {name}, top-1 : all images", top1(network), 100.0, "%", 1.0)
                for name, network in found.items()
            ),
            Row("an epoch of tuning : a minute", took / sizes.epochs, 60.0, "s", 1.0),
        ]


def table(folder: Path, device: str, sizes: StudySizes) -> list[Row]:
    """Compare rankings as Table 3 of Thakur, Abrol and Sharma does, against random filters."""
    source = str(folder / "network.safetensors")
    with fs.load(source, arch=sizes.architecture) as checkpoint:
        lab = fs.Lab(
            checkpoint, source, fs.DataSpec(str(folder / "test.npz")), preprocess=CIFAR,
            evaluation=fs.EvaluationSettings(sizes.batch, device=device),
        )  # fmt: skip
        options = {
            "removed": "50", "methods": sizes.methods, "epochs": sizes.table_epochs, "repeats": 1,
            "lr": 1e-3, "train": str(folder / "train.npz"), "train_subset": sizes.table_images,
        }  # fmt: skip
        found = fs.study("prune-ranking", lab, options)
    return [
        Row(f"Table 3, half cut by {name}, top-1 : all images", 100 * each["mean"], 100.0, "%", 1.0)
        for name, (each,) in found.findings["after"].items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds cifar10 and weights")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu_study.npz"))
    words = parser.parse_args()
    print(f"{words.output}: {pack(words.folder, words.output) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
