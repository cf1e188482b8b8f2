"""How do feature maps differ when a network memorises its images? Train one in three ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.data.data import find_held_out, open_data
from filtersurgeon.data.generated import LabelNoise, add_label_noise
from filtersurgeon.data.preprocess import Augmentation
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.evaluate import evaluate
from filtersurgeon.learn.networks import Network, open_network, running
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages, TrainingStart, tune
from filtersurgeon.plots import tones
from filtersurgeon.plots.sheet import Row, draw_sheet
from filtersurgeon.registry import STUDIES
from filtersurgeon.see.ascent import AscentSettings, ascend
from filtersurgeon.see.gradcam import last_map
from filtersurgeon.see.layers import output_of
from filtersurgeon.see.maximizing import starting_images
from filtersurgeon.see.pictures import open_pictures, stack_pictures
from filtersurgeon.studies._lab import Lab, StudyResult, Table, head_plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EPOCHS = "200,250,1000"
"""Of the three strategies (Table 4.1, Caltech101)."""

# Digits must not be mirrored, and crops of small pictures must keep what they show.
GENTLE = Augmentation(scale=(0.7, 1.0), hflip=0.0, color_jitter=0.2)


@dataclass(frozen=True)
class Strategy:
    """One way to train: a row of Table 4.1 of the dissertation, for Caltech101.

    Attributes:
        name: what tables call it.
        epochs: passes over the training images, noisy copies included.
        rate: greatest learning rate, as a multiple of the first strategy's.
        decay: whether weights decay.
        augmentation: random changes of the images, or None.
        label_noise: the label noise of the training images.
    """

    name: str
    epochs: int
    rate: float
    decay: bool = False
    augmentation: Augmentation | None = None
    label_noise: LabelNoise = field(default_factory=LabelNoise)


@dataclass(frozen=True)
class _Trained:
    """One strategy's network and what it reached."""

    strategy: Strategy
    train: float
    test: float
    network: Network


def memorisation(
    lab: Lab,
    *,
    epochs: str = EPOCHS,
    scale: float = 1.0,
    lr: float = 0.002,
    weight_decay: float = 1.0,
    copies: int = 2,
    units: int = 8,
    steps: int = 128,
) -> StudyResult:
    """Train from scratch with augmentation, with shuffled labels, and with noisy copies.

    The three networks start alike. Their picture shows, for one test image, the first channels of
    the last layer that has a map, and images that maximise the same channels. Epochs, learning
    rates, weight decay and augmentation are those of Table 4.1 for Caltech101; the images of
    SARS-CoV-2 have 150 epochs in the first strategy. Source: Linse, *Towards Understanding CNNs
    Through Visualization and Systematic Simplification*, 2025, sections 4.2 and 4.3, Table 4.1,
    with LAMB as there. Timm's LAMB scales the steps of a layer to its weights only where weights
    decay; without decay they are Adam's.

    Args:
        lab: the network, whose architecture alone matters, and images that come with test images.
        epochs: passes over the training images, noisy copies included, for each of the three; one
            number stands for all.
        scale: multiplies the epochs, for small runs; at least one epoch is left.
        lr: greatest learning rate; half of it for the last two, as published.
        weight_decay: of the first; the last two have none. Table 4.1 says only "on": 1 is the
            dissertation's default for LAMB (section 2.5.1).
        copies: noisy versions of each image.
        units: channels in the picture.
        steps: of maximisation.

    Returns:
        Accuracy on the images as they were learnt, and on the test images, and what each network
        was trained with.
    """
    if min(copies, units, steps) < 1 or scale <= 0:
        raise OptionError("copies, units and steps should be at least 1, and scale above 0")
    ways = _strategies(epochs, scale, copies)
    if lab.checkpoint is None:
        raise OptionError("this study needs a network: pass INPUT")
    train = replace(lab.images(), split="train")
    test = find_held_out(train)
    if test is None:
        raise OptionError("this study needs training images that come with test images")
    classes = head_plan(lab, asdict(train))["classes"]
    settings = {"lr": lr, "weight_decay": weight_decay}
    found = []
    for done, way in enumerate(ways, 1):
        images = TrainingImages(train, None, way.augmentation, way.label_noise)
        run = RunSettings(
            way.epochs, lab.evaluation.batch_size, seed=lab.seed,
            device=lab.evaluation.device,
        )  # fmt: skip
        tuned, _ = tune(
            lab.checkpoint, images, _recipe(way, **settings), run,
            start=TrainingStart(True, classes, lab.preprocess),
        )  # fmt: skip
        found.append(_measure(way, tuned, images, replace(test, subset=None), lab))
        if lab.progress:
            lab.progress(done, len(ways))
    if scale != 1:
        lab.remark(f"epochs are {scale:g} of those of Table 4.1" if epochs == EPOCHS else
                   f"epochs are {scale:g} of {epochs}")  # fmt: skip
    given = {"epochs": epochs, "scale": scale, **settings, "copies": copies, "units": units,
             "steps": steps}  # fmt: skip
    with running(found[0].network.name):
        rows = _rows(found, lab, units, steps)
    return _result(given, found, rows)


def _strategies(epochs: str, scale: float, copies: int) -> list[Strategy]:
    """Give the three rows of Table 4.1, with other epochs if these were asked for."""
    try:
        counts = [int(word) for word in str(epochs).split(",")]
    except ValueError:
        counts = []
    if len(counts) not in (1, 3) or min(counts) < 1:
        raise OptionError(f"epochs={epochs} should be one number or three, such as {EPOCHS}")
    first, second, third = (max(1, round(scale * count)) for count in counts * (3 // len(counts)))
    return [
        Strategy("standard", first, 1.0, True, GENTLE),
        Strategy("shuffled labels", second, 0.5, label_noise=LabelNoise(shuffled=True)),
        Strategy("noisy copies", third, 0.5, label_noise=LabelNoise(copies=copies)),
    ]


def _recipe(way: Strategy, lr: float, weight_decay: float) -> TrainingRecipe:
    rate = lr * way.rate
    decay = weight_decay if way.decay else 0.0
    return TrainingRecipe(optimizer="lamb", lr=rate, min_lr=rate / 1000, weight_decay=decay)


def _measure(
    strategy: Strategy, tuned: Checkpoint, images: TrainingImages, test: Any, lab: Lab
) -> _Trained:
    network = open_network(tuned, lab.preprocess)
    spec, count = network.preprocessing, network.n_classes
    learnt = add_label_noise(
        open_data(images.train, spec, count), images.label_noise, count, lab.seed
    )
    on_train = evaluate(network.model, learnt, count, lab.evaluation)
    on_test = evaluate(network.model, open_data(test, spec, count), count, lab.evaluation)
    return _Trained(strategy, on_train.accuracy, on_test.accuracy, network)


def _rows(found: Sequence[_Trained], lab: Lab, units: int, steps: int) -> list[Row]:
    """Show the same channels of every network: their maps for one image, and what they like."""
    import torch

    first = found[0].network
    data = replace(lab.images(), split="test", subset=1, seed=lab.seed)
    picture = open_pictures(first, (), data)[0]
    rows = [Row("test image", [picture.pixels])]
    batch = stack_pictures([picture])
    layer = last_map(first.model, batch)
    for trained in found:
        model = trained.network.model.cpu().requires_grad_(False)
        with torch.no_grad():
            maps = output_of(model, layer, batch)[0]
        chosen = list(range(min(units, len(maps))))
        settings = AscentSettings(steps, regularize="full", seed=lab.seed)
        noise = starting_images(trained.network, chosen, lab.seed)
        liked = ascend(model, layer, chosen, noise, settings).numpy()
        labels = [str(unit) for unit in chosen]
        seen = [tones.activation(maps[unit].double().numpy()) for unit in chosen]
        title = f"{trained.strategy.name}: test {100 * trained.test:.1f} %"
        rows.append(Row(f"{title}, maps of {layer}", seen))
        rows.append(Row("maximised", [tones.stretched(image) for image in liked], labels))
    return rows


def _result(
    given: Mapping[str, Any], found: Sequence[_Trained], rows: Sequence[Row]
) -> StudyResult:
    numbers = ("epochs", "learning rate", "weight decay", "top-1 as learnt", "top-1 on test")
    columns = [("training", "left"), *((name, "right") for name in numbers)]
    strategies = [_describe(x, given) for x in found]
    cells = [
        (
            each["name"],
            each["epochs"],
            f"{each['lr']:g}",
            f"{each['weight_decay']:g}",
            f"{100 * each['train']:.2f} %",
            f"{100 * each['test']:.2f} %",
        )
        for each in strategies
    ]
    defaults = {k: p.default for k, p in STUDIES.options("memorisation").items()}
    return StudyResult(
        "memorisation",
        {k: v for k, v in given.items() if v != defaults[k]},
        {"strategies": strategies},
        [Table("three ways to train", columns, cells)],
        [],
        partial(_draw, rows=rows),
    )


def _describe(trained: _Trained, given: Mapping[str, Any]) -> dict[str, Any]:
    """Say how a network was trained, and what it reached."""
    way = trained.strategy
    recipe = _recipe(way, given["lr"], given["weight_decay"])
    return {
        "name": way.name, "epochs": way.epochs, "lr": recipe.lr,
        "weight_decay": recipe.weight_decay, "augmented": way.augmentation is not None,
        "train": trained.train, "test": trained.test,
    }  # fmt: skip


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Lay the contact sheet over the whole figure, pixel by pixel."""
    page = np.asarray(draw_sheet(rows))
    figure.set_layout_engine("none")
    figure.set_size_inches(page.shape[1] / figure.dpi, page.shape[0] / figure.dpi)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(page, interpolation="nearest")
    axes.axis("off")
