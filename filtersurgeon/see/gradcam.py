"""Grad-CAM: where a network looks for a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.data.data import DataSpec, as_spec, kind_of_labels
from filtersurgeon.data.kinds import MULTILABEL, class_index
from filtersurgeon.errors import DataError, LayerError, OutputError, near_misses
from filtersurgeon.learn.networks import Network, open_network, running
from filtersurgeon.learn.scores import enlarge
from filtersurgeon.learn.segmentation import predicted_masks
from filtersurgeon.networks.devices import FittingBatches, copy_number, find_device, move_like
from filtersurgeon.networks.opened_module import analyses_several
from filtersurgeon.networks.outputs import class_scores, find_scores, pixel_scores
from filtersurgeon.plots import tones
from filtersurgeon.plots.sheet import Row
from filtersurgeon.see.layers import channels_second, check_images
from filtersurgeon.see.pictures import Picture, open_pictures, stack_pictures

if TYPE_CHECKING:
    from torch import Tensor, nn

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Look:
    """Where one checkpoint looks in some images.

    Attributes:
        name: the checkpoint's.
        layer: whose channels are weighted.
        maps: ``(images, height, width)`` in 0..1, the size of the images; 0 where nothing speaks
            for the class.
        predicted: the class that the checkpoint gives each image.
        probability: of the class that is explained.
    """

    name: str
    layer: str
    maps: np.ndarray
    predicted: tuple[int, ...]
    probability: tuple[float, ...]


@dataclass(frozen=True)
class GradCam:
    """The Grad-CAM maps of one or more networks for the same images.

    Attributes:
        pictures: the images.
        classes: the class that is explained, for each image.
        looks: one per checkpoint; the first is the reference.
    """

    pictures: tuple[Picture, ...]
    classes: tuple[int, ...]
    looks: tuple[Look, ...]

    def __repr__(self) -> str:
        entries = (
            f"{look.name}: layer {look.layer}, maps {look.maps.shape}" for look in self.looks
        )
        return summarise(self, entries, images=len(self.pictures), networks=len(self.looks))

    def differences(self) -> list[list[float]]:
        """Give the mean absolute difference of each further look's maps from the first's."""
        first = self.looks[0].maps
        return [np.abs(x.maps - first).mean((1, 2)).tolist() for x in self.looks[1:]]

    def to_json(self) -> dict[str, Any]:
        """Give the result in its JSON schema, ``filtersurgeon.gradcam/1``."""
        apart = [None, *self.differences()]
        return {
            "schema": "filtersurgeon.gradcam/1",
            "images": [picture.name for picture in self.pictures],
            "classes": list(self.classes),
            "checkpoints": [
                {
                    "name": short_name(look.name),
                    "layer": look.layer,
                    "predicted": list(look.predicted),
                    "probability": list(look.probability),
                    "difference": difference,
                }
                for look, difference in zip(self.looks, apart, strict=True)
            ],
        }

    def rows(self) -> list[Row]:
        """Give a row per image: itself, every look as an overlay, differences from the first."""
        rows = []
        names = [short_name(look.name) for look in self.looks]
        for place, picture in enumerate(self.pictures):
            maps = [look.maps[place] for look in self.looks]
            shown = [picture.pixels, *(overlay(picture.pixels, x) for x in maps)]
            labels = ["image", *(
                f"{name}: {look.predicted[place]}"
                for name, look in zip(names, self.looks, strict=True)
            )]  # fmt: skip
            for name, other in zip(names[1:], maps[1:], strict=True):
                # Red and blue mean the same amount in every picture.
                shown.append(tones.signed(other - maps[0], bound=1.0))
                labels.append(f"{name} - first")
            rows.append(Row(f"{picture.name}  class {self.classes[place]}", shown, labels))
        return rows


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a map of 0..1 over an image ``(height, width, 3)`` of bytes."""
    mixed = 0.5 * pixels + 0.5 * tones.heat(heat)
    return np.rint(mixed).astype(np.uint8)


def short_name(name: str) -> str:
    """Give the name of a checkpoint without folder and ending."""
    return Path(name).name.removesuffix(".safetensors")


@analyses_several
def gradcam(
    checkpoints: Sequence[Checkpoint],
    images: Sequence[str] = (),
    *,
    data: DataSpec | str | Any | None = None,
    layer: str | None = None,
    target: int | str | None = None,
    device: str = "auto",
    preprocess: Mapping[str, Any] | None = None,
    tell: Tell | None = None,
) -> GradCam:
    """Show which regions of images support a class (Grad-CAM).

    Source: Selvaraju et al., *Grad-CAM*, 2017; side by side as in Thakur, Abrol and Sharma, 2022,
    Figure 3. Of a network that gives scores of every pixel, the mean score of the pixels that it
    gives the class is explained, or of all pixels where there are none (Vinogradova et al.,
    *Towards Interpretable Semantic Segmentation*, 2020).

    Args:
        checkpoints: one or more, or modules in memory; all see the images as the first expects
            them.
        images: image files.
        data: a data set, or images in memory, instead.
        layer: a module's name; None takes the last one that still has a map of positions.
        target: the class to explain: its index, or its name where the checkpoint names its classes;
            None for what the first checkpoint sees in each image, of pixels the class of most of
            them but the first class.
        device: where to compute; ``auto`` is a GPU if there is one.
        preprocess: values that replace those of the first checkpoint's ``pretrained_cfg``.
        tell: told what was resized or assumed.

    Raises:
        LayerError: there is no such layer, or none with more than one position.
        OptionError: no such class.
        DataError: an image cannot be read, or networks of different classes.
        OutputError: it is not clear which output holds the class scores.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet", num_classes=2)
        >>> found = fs.gradcam([checkpoint], data=fs.DataSpec("dashes", subset=4))
        >>> found.looks[0].maps.shape
        (4, 160, 160)
    """
    networks = [open_network(checkpoint, preprocess) for checkpoint in checkpoints]
    reference = networks[0]
    if target is not None:
        target = class_index(target, reference.n_classes, reference.class_names)
    for other in networks[1:]:
        if other.n_classes != reference.n_classes:
            raise DataError(
                f"{reference.name} has {reference.n_classes} classes, "
                f"{other.name} {other.n_classes}"
            )
    pictures = open_pictures(reference, images, data, tell)
    batch, classes = stack_pictures(pictures), None if target is None else [target] * len(pictures)
    several = data is not None and kind_of_labels(as_spec(data)) == MULTILABEL
    looks = []
    for network in networks:
        with running(network.name):
            found = look(network, batch, layer, classes, device, several)
        classes = classes or list(found.predicted)
        looks.append(found)
    return GradCam(tuple(pictures), tuple(classes or ()), tuple(looks))


def look(
    network: Network,
    images: Tensor,
    layer: str | None = None,
    classes: Sequence[int] | None = None,
    device: str = "auto",
    several: bool = False,
) -> Look:
    """Compute the maps of one network.

    Args:
        network: any classifier.
        images: ``(n, channels, height, width)``, normalised.
        layer: a module's name; None finds one.
        classes: the class to explain, per image; None for the predicted one.
        device: where to compute; ``auto`` is a GPU if there is one.
        several: whether an image may have several labels, each with a probability of its own.

    Raises:
        LayerError: no such layer, or it has one position only.
        OutputError: it is not clear which output holds the class scores.
        OutOfMemoryError: a single image does not fit.
    """
    import torch

    model = network.model.to(find_device(device))
    images = move_like(images, model)
    name = layer if layer is not None else last_map(model, images[:1])

    def explain(rows: Tensor) -> Look:
        wanted = None if classes is None else [classes[row] for row in rows.tolist()]
        return _look(network, images[rows.to(images.device)], name, wanted, several)

    parts = [
        part for part, _ in FittingBatches(len(images)).run(explain, torch.arange(len(images)))
    ]
    return Look(
        network.name,
        name,
        np.concatenate([part.maps for part in parts]),
        tuple(each for part in parts for each in part.predicted),
        tuple(each for part in parts for each in part.probability),
    )


def _look(
    network: Network, images: Tensor, name: str, classes: Sequence[int] | None, several: bool
) -> Look:
    """Compute the maps of a batch that is where the network is."""
    import torch
    from torch.nn import functional

    model = network.model
    with _watched(model, name) as outputs, torch.enable_grad():
        answers = _answers(model(images.detach().requires_grad_()), images.shape[2:])
        predicted = _predicted(answers)
        chosen = torch.tensor(predicted if classes is None else classes, device=images.device)
        shares, scores = _of_class(answers, chosen, several)
        score = scores.sum()
        activation = outputs[-1]
        check_images(activation, len(images), name)
        gradient = torch.autograd.grad(score, activation, allow_unused=True)[0]
    if gradient is None:
        raise LayerError(f"the class scores do not depend on layer {name}; choose another `layer`")
    module = model.get_submodule(name)
    values, slopes = (channels_second(module, x.detach(), name) for x in (activation, gradient))
    _check_map(values, name)
    weights = slopes.mean((2, 3), keepdim=True)
    heat = (weights * values).sum(1, keepdim=True).relu()
    heat = functional.interpolate(heat, size=images.shape[2:], mode="bilinear")[:, 0]
    heat = heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)
    return Look(
        network.name, name, heat.cpu().double().numpy(), tuple(predicted), tuple(shares.tolist())
    )


def _answers(outputs: Any, size: Sequence[int]) -> Tensor:
    """Give the scores of images, (images, classes), or of their pixels, for images of a size."""
    scores = find_scores(outputs)
    if scores is None or scores.ndim <= 2:
        return class_scores(outputs)
    return enlarge(pixel_scores(outputs), size)


def _predicted(answers: Tensor) -> list[int]:
    """Give the class of each image; of scores of pixels, the class of most but the first class."""
    if answers.ndim == 2:
        return answers.argmax(1).tolist()
    count = answers.shape[1]
    found = []
    for each in predicted_masks(answers):
        times = each.flatten().bincount(minlength=max(2, count))
        times[0] = 0
        found.append(copy_number(times.argmax()) if count > 1 else 0)
    return found


def _of_class(answers: Tensor, classes: Tensor, several: bool) -> tuple[Tensor, Tensor]:
    """Give the probability and the score of a class of each image, (images,)."""
    import torch

    one = answers.shape[1] == 1
    shares = answers.detach().sigmoid() if one or several else answers.detach().softmax(1)
    if answers.ndim == 2:
        return tuple(x.gather(1, classes[:, None])[:, 0] for x in (shares, answers))  # type: ignore[return-value]
    rows = torch.arange(len(answers), device=answers.device)
    seen = predicted_masks(answers) == (1 if one else classes[:, None, None])
    # Where no pixel has the class, all of them count.
    seen = seen | ~seen.flatten(1).any(1)[:, None, None]
    shares, scores = (
        (x[rows, classes] * seen).sum((1, 2)) / seen.sum((1, 2)) for x in (shares, answers)
    )
    return shares, scores


class _watched:  # noqa: N801 - reads as a verb where it is used
    """Collect the outputs of a layer while the network runs."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        known = [name for name, _ in model.named_modules() if name]
        if layer not in known:
            raise LayerError(f"no layer is called {layer!r}{near_misses(layer, known)}")
        self.module, self.layer = model.get_submodule(layer), layer
        self.outputs: list[Tensor] = []

    def __enter__(self) -> list[Tensor]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            channels_second(self.module, output, self.layer)
            self.outputs.append(output)

        self.handle = self.module.register_forward_hook(keep)
        return self.outputs

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def last_map(model: nn.Module, image: Tensor) -> str:
    """Name the last layer whose output still has positions, and is not made by pooling.

    Layers that the scores do not depend on, such as an auxiliary head, are passed over.

    Raises:
        LayerError: there is none.
    """
    import torch
    from torch import nn

    pooling = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
    passing = (nn.Dropout, nn.Dropout2d, nn.Identity)
    found: list[tuple[str, Tensor]] = []
    pooled: set[int] = set()

    def hook(name: str) -> Callable[..., None]:
        def see(module: nn.Module, _inputs: Any, output: Any) -> None:
            tensor = isinstance(output, torch.Tensor) and output.ndim == 4
            if not tensor or isinstance(module, passing):
                return
            # What a group of layers gives may be what the pooling at its end gave.
            if isinstance(module, pooling) or id(output) in pooled:
                pooled.add(id(output))
                kept.append(output)
            elif min(channels_second(module, output, name).shape[2:]) > 1:
                found.append((name, output))

        return see

    kept: list[Tensor] = []
    named = [(name, module) for name, module in model.named_modules() if name]
    handles = [module.register_forward_hook(hook(name)) for name, module in named]
    try:
        with torch.enable_grad():
            outputs = model(image.detach().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    names = _reached(found, outputs)
    if not names:
        raise LayerError("no layer of this network has a map of positions to look at")
    return names[-1]


def _reached(found: Sequence[tuple[str, Tensor]], outputs: Any) -> list[str]:
    """Name the layers that the scores in a network's outputs depend on; all if that is unclear."""
    import torch

    maps = [(name, each) for name, each in found if each.requires_grad]
    try:
        scores = find_scores(outputs)
    except OutputError:
        scores = None
    if scores is None or not scores.requires_grad or not maps:
        return [name for name, _ in found]
    slopes = torch.autograd.grad(scores.sum(), [each for _, each in maps], allow_unused=True)
    return [name for (name, _), slope in zip(maps, slopes, strict=True) if slope is not None]


def _check_map(values: Tensor, layer: str) -> None:
    if values.ndim != 4 or max(values.shape[2:]) < 2:
        raise LayerError(
            f"layer {layer} has no map of positions: its output is {list(values.shape[1:])}; "
            "choose an earlier `layer`"
        )
