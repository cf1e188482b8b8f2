"""Train one network of the zoo: ``python -m examples.zoo.train NAME --data FOLDER``."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from examples.zoo import networks
from filtersurgeon.data.data import DataSpec, open_data
from filtersurgeon.data.preprocess import Augmentation, read_preprocessing
from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate
from filtersurgeon.learn.session import TrainingData, TrainingStep
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.train import train

GREY = {"num_classes": 10, "input_size": [1, 28, 28], "mean": [0.1307], "std": [0.3081]}
COLOUR = {
    "num_classes": 10,
    "input_size": [3, 32, 32],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
}
SHIFTS = Augmentation(scale=(0.6, 1.0), ratio=(0.8, 1.25), hflip=0.0, color_jitter=0.0)
CROPS = Augmentation(scale=(0.5, 1.0), ratio=(0.8, 1.25), color_jitter=0.0)


@dataclass(frozen=True)
class Member:
    """One network of the zoo, how it is trained, and whether its file holds float16."""

    factory: str
    train: str
    test: str
    cfg: dict
    recipe: TrainingRecipe
    epochs: int
    batch_size: int = 64
    augmentation: Augmentation | None = None
    half: bool = False


ZOO = {
    "lenet5_digits": Member(
        "lenet5",
        "digits.npz",
        "digits.npz",
        GREY,
        TrainingRecipe(lr=2e-3, warmup_epochs=1),
        40,
        augmentation=SHIFTS,
    ),
    "lenet5_mnist": Member(
        "lenet5",
        "mnist/mnist.npz",
        "mnist/mnist.npz",
        GREY,
        TrainingRecipe(lr=2e-3, warmup_epochs=1),
        5,
        128,
    ),
    # Optimiser, batches and weight decay as in MatConvNet's example; the rate is for pixels that
    # are scaled to a standard deviation of one.
    "lenet_matconvnet": Member(
        "lenet_matconvnet",
        "mnist/mnist.npz",
        "mnist/mnist.npz",
        GREY,
        TrainingRecipe(optimizer="sgd", lr=0.01, weight_decay=5e-4),
        8,
        100,
        half=True,
    ),
    "resnet20_cifar10": Member(
        "cifar_resnet20",
        "cifar10/train_10k.npz",
        "cifar10/test.npz",
        COLOUR,
        TrainingRecipe(optimizer="sgd", lr=0.1, weight_decay=5e-4, warmup_epochs=1),
        16,
        augmentation=CROPS,
    ),
    "convnext_cifar10": Member(
        "convnext_small_images",
        "cifar10/train_10k.npz",
        "cifar10/test.npz",
        COLOUR,
        TrainingRecipe(lr=3e-3, weight_decay=0.05, warmup_epochs=2, clip_grad=1.0),
        20,
        augmentation=CROPS,
    ),
}


def write_digits(path: Path) -> None:
    """Write scikit-learn's 8x8 digits; the last fifth, by other writers, is the test set."""
    from sklearn.datasets import load_digits

    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)
    part = len(pixels) * 4 // 5
    np.savez_compressed(
        path,
        x_train=pixels[:part],
        y_train=found.target[:part],
        x_test=pixels[part:],
        y_test=found.target[part:],
    )


def show(step: TrainingStep) -> None:
    """Tell the loss once in a while."""
    if step.step == step.steps:
        print(f"epoch {step.epoch}: loss {step.loss:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(ZOO))
    parser.add_argument("--data", type=Path, required=True, help="folder of the .npz files")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder for run states")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    member = ZOO[options.name]
    folder = options.runs / options.name
    sources = {"train": options.data / member.train, "test": options.data / member.test}
    if member.train == "digits.npz":
        options.runs.mkdir(parents=True, exist_ok=True)
        sources = dict.fromkeys(sources, options.runs / "digits.npz")
        write_digits(sources["train"])

    preprocessing = read_preprocessing(member.cfg)
    train_spec = DataSpec(str(sources["train"]), split="train")
    test_spec = DataSpec(str(sources["test"]))
    learn_from = open_data(train_spec, preprocessing, 10, member.augmentation)
    test = open_data(test_spec, preprocessing, 10)
    torch.manual_seed(0)
    network = getattr(networks, member.factory)()
    run = RunSettings(
        epochs=member.epochs,
        batch_size=member.batch_size,
        channels_last=True,
        device="cpu",
        folder=str(folder),
        resume=options.resume,
    )
    # The check between epochs is only for the log: nothing is chosen by it.
    some = test.take(range(0, len(test), max(1, len(test) // 1000)))
    train(network, TrainingData(learn_from, some, 10), member.recipe, run, show)
    if member.half:  # the file is half as large, and what is measured is what it holds
        network.half().float()
    found = evaluate(network, test, 10, EvaluationSettings(batch_size=128))
    low, high = found.interval()
    about = {"format": "pt", "pretrained_cfg": json.dumps(member.cfg)}
    # Written by hand because safetensors' own writer makes files that only their owner can read.
    written = Path(__file__).parent / f"{options.name}.safetensors"
    kept = network.half() if member.half else network
    written.write_bytes(save(kept.state_dict(), about))
    print(f"{options.name}: {found.top1} of {found.n_images} right, {low:.4f} to {high:.4f}")


if __name__ == "__main__":
    main()
