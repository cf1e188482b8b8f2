"""What an image is optimised for: channels, neurons, classes, directions, and their sums.

Source: Olah, Mordvintsev and Schubert, *Feature Visualization*, Distill, 2017.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from filtersurgeon.errors import LayerError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("channel", "neuron", "class", "direction")
_FORM = "should read like class:7, channel:LAYER:7, neuron:LAYER:7, direction:LAYER:FILE.npy"


@dataclass(frozen=True)
class Term:
    """One summand of an objective.

    Attributes:
        kind: ``channel``, ``neuron``, ``class`` or ``direction``.
        layer: the module's name; None for the classifier.
        unit: the channel or class; None for a direction.
        place: of a neuron, down and across its map, each 0 to 1.
        vector: of a direction, one value per channel, of length 1.
        weight: its factor.
    """

    kind: str
    layer: str | None
    unit: int | None = None
    place: tuple[float, float] = (0.5, 0.5)
    vector: tuple[float, ...] = ()
    weight: float = 1.0

    def __str__(self) -> str:
        words = [self.kind, *([] if self.layer is None else [self.layer])]
        words += [] if self.unit is None else [str(self.unit)]
        text = ":".join(words)
        if self.kind == "neuron":
            text += "@{:g},{:g}".format(*self.place)
        return text if self.weight == 1 else f"{self.weight:g}*{text}"

    def value(self, output: Tensor) -> Tensor:
        """Read the term from the layer's output of one image, ``(channels, ...)``."""
        if self.kind == "direction":
            vector = output.new_tensor(self.vector)
            return self.weight * (vector @ output.flatten(1).mean(1))
        own = output[self.unit]
        if self.kind == "neuron" and own.ndim:
            for part, length in zip(self.place, own.shape, strict=False):
                own = own[min(int(part * length), length - 1)]
        return self.weight * own.mean()


@dataclass(frozen=True)
class Objective:
    """A weighted sum of what layers answer to an image, which is maximised.

    Objectives can be added, and multiplied by factors.

    Examples:
        >>> from filtersurgeon import Objective
        >>> print(Objective.channel("layer3", 5) + 0.5 * Objective.class_score(1))
        channel:layer3:5+0.5*class:1
    """

    terms: tuple[Term, ...]

    @staticmethod
    def channel(layer: str, unit: int) -> Objective:
        """Take the mean activation of a channel of a layer."""
        return Objective((Term("channel", layer, unit),))

    @staticmethod
    def neuron(layer: str, unit: int, place: tuple[float, float] = (0.5, 0.5)) -> Objective:
        """Take one position of a channel's map: ``place`` is down and across, 0 to 1."""
        return Objective((Term("neuron", layer, unit, place),))

    @staticmethod
    def class_score(unit: int) -> Objective:
        """Take the score of a class, before softmax."""
        return Objective((Term("class", None, unit),))

    @staticmethod
    def direction(layer: str, vector: Sequence[float]) -> Objective:
        """Take the mean projection of a layer's activations on a vector, one value per channel.

        Raises:
            OptionError: the vector is zero or not finite.
        """
        values = np.asarray(vector, np.float64).ravel()
        length = float(np.linalg.norm(values))
        if not 0 < length < np.inf:
            raise OptionError(f"the direction in layer {layer} should be finite and not zero")
        return Objective((Term("direction", layer, None, vector=tuple(values / length)),))

    def __add__(self, other: Objective) -> Objective:
        return Objective(self.terms + other.terms)

    def __mul__(self, factor: float) -> Objective:
        return Objective(tuple(replace(x, weight=factor * x.weight) for x in self.terms))

    __rmul__ = __mul__

    def __str__(self) -> str:
        return "+".join(map(str, self.terms))

    @property
    def is_class(self) -> bool:
        """Whether it is the score of one class."""
        return len(self.terms) == 1 and self.terms[0].kind == "class"

    def on(self, classifier: str) -> Objective:
        """Name the layer of the classes."""
        named = (replace(x, layer=classifier) if x.layer is None else x for x in self.terms)
        return Objective(tuple(named))

    def value(self, outputs: Mapping[str, Tensor], image: int) -> Tensor:
        """Read the objective of one image from the outputs ``(images, channels, ...)`` of layers.

        Raises:
            LayerError: a layer has no such unit, or a direction of another length.
        """
        total = None
        for term in self.terms:
            layer = term.layer or ""
            output = outputs[layer][image]
            _check(term, layer, output.shape[0])
            found = term.value(output)
            total = found if total is None else total + found
        if total is None:
            raise OptionError("an objective needs at least one term")
        return total


def _check(term: Term, layer: str, count: int) -> None:
    name = f"layer {layer}" if layer else "the output"
    if term.unit is not None and not 0 <= term.unit < count:
        raise LayerError(f"{name} has no unit {term.unit}; its {count} units are 0 to {count - 1}")
    if term.kind == "direction" and len(term.vector) != count:
        raise LayerError(
            f"a direction of {len(term.vector)} values was given, and {name} has {count} channels"
        )


def layers_of(objectives: Iterable[Objective]) -> list[str]:
    """List the layers that objectives read, each once."""
    return list(dict.fromkeys(x.layer or "" for each in objectives for x in each.terms))


def read_objective(text: str) -> Objective:
    """Read an objective: ``class:7``, ``channel:LAYER:7``, ``neuron:LAYER:7``, sums, factors.

    ``neuron:LAYER:7@0.2,0.8`` is at that place of the map, down and across.
    ``direction:LAYER:FILE.npy`` reads a vector. Sums read ``class:7+0.5*class:9``.

    Raises:
        OptionError: not such a text, or no such file.

    Examples:
        >>> from filtersurgeon.see.objectives import read_objective
        >>> read_objective("class:7+-0.5*class:9").terms[1].weight
        -0.5
    """
    total = Objective(())
    for word in text.split("+"):
        factor, times, rest = word.rpartition("*")
        try:
            total = total + (float(factor) if times else 1.0) * _read_term(rest.strip())
        except ValueError:
            raise OptionError(f"objective {text!r} {_FORM}") from None
    return total


def _read_term(text: str) -> Objective:
    kind, *words = text.split(":")
    if kind == "class" and len(words) == 1:
        return Objective.class_score(int(words[0]))
    if len(words) != 2:
        raise ValueError(text)
    layer, what = words
    if kind == "channel":
        return Objective.channel(layer, int(what))
    if kind == "direction":
        return Objective.direction(layer, _read_vector(what))
    if kind != "neuron":
        raise ValueError(text)
    unit, given, place = what.partition("@")
    if not given:
        return Objective.neuron(layer, int(unit))
    down, across = (float(number) for number in place.split(","))
    if not (0 <= down <= 1 and 0 <= across <= 1):
        raise ValueError(text)
    return Objective.neuron(layer, int(unit), (down, across))


def _read_vector(path: str) -> Sequence[float]:
    try:
        with open(path, "rb") as file:
            return [float(value) for value in np.load(file, allow_pickle=False).ravel()]
    except (OSError, EOFError, ValueError, AttributeError, TypeError):
        raise OptionError(f"{path}: no .npy file of numbers") from None
