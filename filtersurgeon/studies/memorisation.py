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
from filtersurgeon.learn.evaluation import student_interval
from filtersurgeon.learn.networks import Network, open_network, running
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages, TrainingStart, tune
from filtersurgeon.networks.hub import untrained
from filtersurgeon.plots import tones
from filtersurgeon.plots.blocks import draw_blocks, square_columns
from filtersurgeon.plots.sheet import Row
from filtersurgeon.registry import STUDIES
from filtersurgeon.see.ascent import AscentSettings, ascend
from filtersurgeon.see.gradcam import last_map
from filtersurgeon.see.layers import output_of
from filtersurgeon.see.maximizing import starting_images
from filtersurgeon.see.pictures import open_pictures, stack_pictures
from filtersurgeon.studies._lab import Lab, StudyResult, Table, head_plan
from filtersurgeon.studies._pages import fill_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

_BLOCK, _SMALLEST, _LARGEST = 480, 24, 96
"""Width of a block and heights of pictures, in pixels."""
EPOCHS = "200,250,1000"
"""Of the three strategies (Table 4.1, Caltech101)."""

AUGMENTATIONS = {
    # Digits must not be mirrored, and crops of small pictures must keep what they show.
    "gentle": Augmentation(scale=(0.7, 1.0), hflip=0.0, color_jitter=0.2),
    "photographs": Augmentation(scale=(0.5, 1.0), hflip=0.5, color_jitter=0.4),
}
_COVID_RESNET = "timm:resnet50(layers=[3,3,2,1])"
_COVID_DENSENET = "timm:densenet121(block_config=(6,10,2,1))"
_SARS = {"epochs": "150,250,1000", "size": "180x250", "augmentation": "photographs"}
PRESETS = {
    "caltech101-covid-resnet": {
        "network": _COVID_RESNET, "epochs": EPOCHS, "size": "150x175",
        "augmentation": "photographs",
    },
    "sars-covid-resnet": {"network": _COVID_RESNET, **_SARS},
    "sars-covid-densenet": {"network": _COVID_DENSENET, **_SARS},
}  # fmt: skip
"""The three experiments of Table 4.1. The networks have the numbers of blocks that the authors
publish for CovidResNet and CovidDenseNet (Alshazly et al., 2021), without the latter's adapters."""


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
    maps: MapNumbers


def memorisation(
    lab: Lab,
    *,
    epochs: str = EPOCHS,
    scale: float = 1.0,
    lr: float = 0.002,
    weight_decay: float = 1.0,
    copies: int = 2,
    maps: int = 64,
    units: int = 16,
    steps: int = 128,
    images: int = 32,
    size: str = "",
    augmentation: str = "gentle",
    network: str = "",
    preset: str = "",
) -> StudyResult:
    """Train from scratch with augmentation, with shuffled labels, and with noisy copies.

    The three networks start alike. Their picture shows side by side, for one test image, the first
    channels of the last layer that has a map (Table 4.3), and images that maximise the same
    channels (Fig. 4.6). Epochs, learning rates, weight decay and augmentation are those of Table
    4.1 for Caltech101; ``-p preset=`` chooses one of its three experiments, with the size of the
    images and, where no INPUT is given, a network like theirs.
    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, sections 4.2 and 4.3, Table 4.1, with LAMB as there. Timm's LAMB scales
    the steps of a layer to its weights only where weights decay; without decay they are Adam's.

    Args:
        lab: the network, whose architecture alone matters, and images that come with test images.
        epochs: passes over the training images, noisy copies included, for each of the three; one
            number stands for all.
        scale: multiplies the epochs, for small runs; at least one epoch is left.
        lr: greatest learning rate; half of it for the last two, as published.
        weight_decay: of the first; the last two have none. Table 4.1 says only "on": 1 is the
            dissertation's default for LAMB (section 2.5.1).
        copies: noisy versions of each image.
        maps: channels whose maps the picture shows.
        units: channels in the picture that are maximised.
        steps: of maximisation.
        images: test images whose maps are measured.
        size: height and width of the images, such as 150x175; the network's own if left out.
        augmentation: ``gentle``, crops and contrast for digits; ``photographs``, also mirrored.
            The noise that the dissertation adds is left out.
        network: architecture to train, where no INPUT is given.
        preset: ``caltech101-covid-resnet``, ``sars-covid-resnet`` or ``sars-covid-densenet``.

    Returns:
        Accuracy on the images as they were learnt, and on the test images, and what each network
        was trained with. Of the maps, means over test images with Student's 95 % interval: the
        correlation of neighbouring positions, and the share of the variance that is between
        channels, which is high where channels are either active or not.
    """
    if min(copies, maps, units, steps, images) < 1 or scale <= 0:
        raise OptionError("copies, maps, units, steps and images should be at least 1, "
                          "and scale above 0")  # fmt: skip
    if augmentation not in AUGMENTATIONS:
        raise OptionError(f"augmentation={augmentation!r} is none of {', '.join(AUGMENTATIONS)}")
    ways = _strategies(epochs, scale, copies, AUGMENTATIONS[augmentation])
    train = replace(lab.images(), split="train")
    test = find_held_out(train)
    if test is None:
        raise OptionError("this study needs training images that come with test images")
    if lab.checkpoint is None and network:
        lab = replace(lab, checkpoint=untrained(network, seed=lab.seed))
    if lab.checkpoint is None:
        raise OptionError("this study needs a network: pass INPUT or `network`")
    lab = _with_size(lab, size)
    classes = head_plan(lab, asdict(train))["classes"]
    settings = {"lr": lr, "weight_decay": weight_decay}
    found = []
    for done, way in enumerate(ways, 1):
        learnt = TrainingImages(train, None, way.augmentation, way.label_noise)
        run = RunSettings(
            way.epochs, lab.evaluation.batch_size, seed=lab.seed,
            device=lab.evaluation.device,
        )  # fmt: skip
        tuned, _ = tune(
            lab.checkpoint, learnt, _recipe(way, **settings), run,
            start=TrainingStart(True, classes, lab.preprocess),
        )  # fmt: skip
        held_out = replace(test, subset=None)
        found.append(_measure(way, tuned, learnt, held_out, images, lab))
        if lab.progress:
            lab.progress(done, len(ways))
    if scale != 1:
        lab.remark(f"epochs are {scale:g} of those of Table 4.1" if epochs == EPOCHS else
                   f"epochs are {scale:g} of {epochs}")  # fmt: skip
    given = {
        "epochs": epochs, "scale": scale, **settings, "copies": copies, "maps": maps,
        "units": units, "steps": steps, "images": images, "size": size,
        "augmentation": augmentation, "network": network, "preset": preset,
    }  # fmt: skip
    with running(found[0].network.name):
        rows = _rows(found, lab, maps, units, steps)
    return _result(given, found, rows)


def _with_size(lab: Lab, text: str) -> Lab:
    """State the size of the images, to which they are squeezed whole."""
    if not text:
        return lab
    try:
        height, width = (int(word) for word in text.split("x"))
    except ValueError:
        raise OptionError(f"size={text} should be height and width, such as 150x175") from None
    if min(height, width) < 1:
        raise OptionError(f"size={text} should be height and width, such as 150x175")
    channels = open_network(lab.checkpoint, lab.preprocess).preprocessing.channels
    stated = {"input_size": (channels, height, width), "crop_pct": 1.0, "crop_mode": "squash"}
    return replace(lab, preprocess={**stated, **lab.preprocess})


def _strategies(
    epochs: str, scale: float, copies: int, augmentation: Augmentation = AUGMENTATIONS["gentle"]
) -> list[Strategy]:
    """Give the three rows of Table 4.1, with other epochs if these were asked for."""
    try:
        counts = [int(word) for word in str(epochs).split(",")]
    except ValueError:
        counts = []
    if len(counts) not in (1, 3) or min(counts) < 1:
        raise OptionError(f"epochs={epochs} should be one number or three, such as {EPOCHS}")
    first, second, third = (max(1, round(scale * count)) for count in counts * (3 // len(counts)))
    return [
        Strategy("standard", first, 1.0, True, augmentation),
        Strategy("shuffled labels", second, 0.5, label_noise=LabelNoise(shuffled=True)),
        Strategy("noisy copies", third, 0.5, label_noise=LabelNoise(copies=copies)),
    ]


def _recipe(way: Strategy, lr: float, weight_decay: float) -> TrainingRecipe:
    rate = lr * way.rate
    decay = weight_decay if way.decay else 0.0
    return TrainingRecipe(optimizer="lamb", lr=rate, min_lr=rate / 1000, weight_decay=decay)


def _measure(
    strategy: Strategy,
    tuned: Checkpoint,
    images: TrainingImages,
    test: Any,
    count: int,
    lab: Lab,
) -> _Trained:
    network = open_network(tuned, lab.preprocess)
    spec, classes = network.preprocessing, network.n_classes
    learnt = add_label_noise(
        open_data(images.train, spec, classes), images.label_noise, classes, lab.seed
    )
    on_train = evaluate(network.model, learnt, classes, lab.evaluation)
    on_test = evaluate(network.model, open_data(test, spec, classes), classes, lab.evaluation)
    shown = open_data(replace(test, subset=count, seed=lab.seed), spec, classes)
    with running(network.name):
        numbers = measure_maps(_maps_of(network, stack_images(shown))[1])
    return _Trained(strategy, on_train.accuracy, on_test.accuracy, network, numbers)


def stack_images(images: Any) -> Tensor:
    """Stack the images of a data set into one batch."""
    import torch

    return torch.stack([images[place][0] for place in range(len(images))])


def _maps_of(network: Network, batch: Tensor) -> tuple[str, np.ndarray]:
    """Give the last layer with a map of positions, and its maps."""
    import torch

    model = network.model.cpu().requires_grad_(False)
    layer = last_map(model, batch[:1])
    with torch.no_grad():
        return layer, output_of(model, layer, batch).double().numpy()


@dataclass(frozen=True)
class MapNumbers:
    """What was measured of maps, a value for each image.

    Attributes:
        neighbours: correlation of values at neighbouring positions of a channel, its mean taken
            off; near 1 for smooth maps, 0 for noise.
        between: share of the variance of all values that is between the channels.
    """

    neighbours: np.ndarray
    between: np.ndarray


def measure_maps(maps: np.ndarray) -> MapNumbers:
    """Measure how smooth the maps of images are, and how much their channels differ.

    Args:
        maps: ``(images, channels, height, width)``.

    Returns:
        NaN where the maps of an image have one value only.
    """
    centred = maps - maps.mean((2, 3), keepdims=True)
    sums = np.zeros((3, len(maps)))
    for a, b in (
        (centred[..., 1:], centred[..., :-1]),
        (centred[..., 1:, :], centred[..., :-1, :]),
    ):
        sums += [(x * y).sum((1, 2, 3)) for x, y in ((a, b), (a, a), (b, b))]
    total = ((maps - maps.mean((1, 2, 3), keepdims=True)) ** 2).mean((1, 2, 3))
    within = (centred**2).mean((1, 2, 3))
    with np.errstate(invalid="ignore", divide="ignore"):
        return MapNumbers(sums[0] / np.sqrt(sums[1] * sums[2]), 1 - within / total)


_HEAD = "test image"


def _rows(found: Sequence[_Trained], lab: Lab, maps: int, units: int, steps: int) -> list[Row]:
    """Show the same channels of every network: the image, their maps, and what they like."""
    first = found[0].network
    data = replace(lab.images(), split="test", subset=1, seed=lab.seed)
    picture = open_pictures(first, (), data)[0]
    batch = stack_pictures([picture])
    heads, seen, liked = [], [], []
    for trained in found:
        layer, values = _maps_of(trained.network, batch)
        title = f"{trained.strategy.name}: test {100 * trained.test:.1f} %"
        heads.append(Row(title, [picture.pixels], [_HEAD]))
        bound = float(np.abs(values[0]).max())
        shown = [tones.activation(channel, bound) for channel in values[0][:maps]]
        seen.append(Row(f"maps of {layer}", shown))
        chosen = list(range(min(units, values.shape[1])))
        settings = AscentSettings(steps, regularize="full", seed=lab.seed)
        noise = starting_images(trained.network, chosen, lab.seed)
        images = ascend(trained.network.model, layer, chosen, noise, settings).numpy()
        labels = [str(unit) for unit in chosen]
        liked.append(Row("maximised", [tones.stretched(image) for image in images], labels))
    return [*heads, *seen, *liked]


def _tile(row: Row) -> int:
    """Give the height of a row's pictures, so that blocks are about as wide as each other."""
    return max(_SMALLEST, min(_LARGEST, _BLOCK // square_columns(len(row.pictures))))


def _result(
    given: Mapping[str, Any], found: Sequence[_Trained], rows: Sequence[Row]
) -> StudyResult:
    numbers = ("epochs", "learning rate", "weight decay", "top-1 as learnt", "top-1 on test",
               "neighbours", "between channels")  # fmt: skip
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
            "{:.3f} ({:.3f} to {:.3f})".format(*each["neighbours"]),
            "{:.3f} ({:.3f} to {:.3f})".format(*each["between_channels"]),
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
        "neighbours": _interval(trained.maps.neighbours),
        "between_channels": _interval(trained.maps.between),
    }  # fmt: skip


def _interval(values: np.ndarray) -> list[float]:
    """Give the mean over the images that have a value, and its interval; zeros if none has."""
    known = values[np.isfinite(values)]
    return list(student_interval(list(known))) if len(known) else [0.0] * 3


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    """Draw a column for each strategy."""
    fill_figure(figure, draw_blocks(rows, across=3, tile=_tile))
