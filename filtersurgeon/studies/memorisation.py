"""What does a network that learns by heart look like inside? Three ways to train one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.data import held_out, open_data
from filtersurgeon.learn.evaluate import evaluate
from filtersurgeon.learn.memorise import ByHeart, spoilt
from filtersurgeon.learn.networks import Network, open_network, running
from filtersurgeon.learn.preprocess import Augmentation
from filtersurgeon.learn.settings import Recipe, RunSettings
from filtersurgeon.registry import STUDIES
from filtersurgeon.report import tones
from filtersurgeon.report.sheet import Row, draw_sheet
from filtersurgeon.see.ascent import AscentSettings, ascend
from filtersurgeon.see.gradcam import last_map
from filtersurgeon.see.layers import output_of
from filtersurgeon.see.maximizing import starting_images
from filtersurgeon.see.pictures import open_pictures, stacked
from filtersurgeon.studying import Lab, StudyResult, Table
from filtersurgeon.tuning import Start, TrainingImages, tune

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Digits must not be mirrored, and crops of small pictures must keep what they show.
GENTLE = Augmentation(scale=(0.7, 1.0), hflip=0.0, color_jitter=0.2)


@dataclass(frozen=True)
class _Trained:
    """One strategy's network and what it reached."""

    name: str
    train: float
    test: float
    network: Network


def memorisation(
    lab: Lab,
    *,
    epochs: int = 20,
    lr: float = 0.002,
    copies: int = 2,
    units: int = 8,
    steps: int = 128,
) -> StudyResult:
    """Train from scratch with augmentation, with shuffled labels, and with noisy copies.

    The three networks start alike. Their picture shows, for one test image, the first channels of
    the last layer that has a map, and images that maximise the same channels. Source: Linse,
    *Towards Understanding CNNs Through Visualization and Systematic Simplification*, 2025,
    sections 4.2 and 4.3, with LAMB as there.

    Args:
        lab: the network, whose architecture alone matters, and images that come with test images.
        epochs: passes over the training images, noisy copies included.
        lr: greatest learning rate; half of it for the last two, as published.
        copies: noisy versions of each image.
        units: channels in the picture.
        steps: of maximisation.

    Returns:
        Accuracy on the images as they were learnt, and on the test images.
    """
    if min(epochs, copies, units, steps) < 1:
        raise OptionError("epochs, copies, units and steps should be at least 1")
    if lab.checkpoint is None:
        raise OptionError("this study needs a network: name INPUT")
    train = replace(lab.images(), split="train")
    test = held_out(train)
    if test is None:
        raise OptionError("this study needs training images that come with test images")
    ways = {
        "standard": (ByHeart(), GENTLE, lr),
        "shuffled labels": (ByHeart(shuffled=True), None, lr / 2),
        "noisy copies": (ByHeart(copies=copies), None, lr / 2),
    }
    found = []
    for done, (name, (how, augmentation, rate)) in enumerate(ways.items(), 1):
        images = TrainingImages(train, None, augmentation, how)
        recipe = Recipe(optimizer="lamb", lr=rate, min_lr=rate / 1000, weight_decay=0.02)
        run = RunSettings(
            epochs, lab.evaluation.batch_size, seed=lab.seed,
            device="cpu" if lab.evaluation.device == "cpu" else "auto",
        )  # fmt: skip
        tuned, _ = tune(
            lab.checkpoint, images, recipe, run,
            start=Start(scratch=True, preprocess=lab.preprocess),
        )  # fmt: skip
        found.append(_measured(name, tuned, images, replace(test, subset=None), lab))
        if lab.progress:
            lab.progress(done, len(ways))
    given = {"epochs": epochs, "lr": lr, "copies": copies, "units": units, "steps": steps}
    with running(found[0].network.name):
        rows = _rows(found, lab, units, steps)
    return _result(given, found, rows)


def _measured(
    name: str, tuned: Checkpoint, images: TrainingImages, test: Any, lab: Lab
) -> _Trained:
    network = open_network(tuned, lab.preprocess)
    spec, count = network.preprocessing, network.n_classes
    learnt = spoilt(open_data(images.train, spec, count), images.by_heart, count, lab.seed)
    on_train = evaluate(network.model, learnt, count, lab.evaluation)
    on_test = evaluate(network.model, open_data(test, spec, count), count, lab.evaluation)
    return _Trained(name, on_train.accuracy, on_test.accuracy, network)


def _rows(found: Sequence[_Trained], lab: Lab, units: int, steps: int) -> list[Row]:
    """Show the same channels of every network: their maps for one image, and what they like."""
    import torch

    first = found[0].network
    data = replace(lab.images(), split="test", subset=1, seed=lab.seed)
    picture = open_pictures(first, (), data)[0]
    rows = [Row("test image", [picture.pixels])]
    batch = stacked([picture])
    layer = last_map(first.model, batch)
    for trained in found:
        model = trained.network.model.cpu().requires_grad_(False)
        with torch.no_grad():
            maps = output_of(model, layer, batch)[0]
        chosen = list(range(min(units, len(maps))))
        settings = AscentSettings(steps, seed=lab.seed)
        noise = starting_images(trained.network, chosen, lab.seed)
        liked = ascend(model, layer, chosen, noise, settings).numpy()
        labels = [str(unit) for unit in chosen]
        seen = [tones.activation(maps[unit].double().numpy()) for unit in chosen]
        title = f"{trained.name}: test {100 * trained.test:.1f} %"
        rows.append(Row(f"{title}, maps of {layer}", seen))
        rows.append(Row("maximised", [tones.stretched(image) for image in liked], labels))
    return rows


def _result(
    given: Mapping[str, Any], found: Sequence[_Trained], rows: Sequence[Row]
) -> StudyResult:
    columns = [("training", "left"), ("top-1 as learnt", "right"), ("top-1 on test", "right")]
    cells = [(x.name, f"{100 * x.train:.2f} %", f"{100 * x.test:.2f} %") for x in found]
    defaults = {k: p.default for k, p in STUDIES.options("memorisation").items()}
    return StudyResult(
        "memorisation",
        {k: v for k, v in given.items() if v != defaults[k]},
        {"strategies": [{"name": x.name, "train": x.train, "test": x.test} for x in found]},
        [Table("three ways to train", columns, cells)],
        [],
        partial(_draw, rows=rows),
    )


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Lay the contact sheet over the whole figure, pixel by pixel."""
    page = np.asarray(draw_sheet(rows))
    figure.set_layout_engine("none")
    figure.set_size_inches(page.shape[1] / figure.dpi, page.shape[0] / figure.dpi)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(page, interpolation="nearest")
    axes.axis("off")
