"""A network of letters with filters set by hand, decoded: Figures 5 to 7 of the decoding paper.

``python -m examples.letters --out pictures`` writes three pictures. The network is built by
``--factory examples.letters:letters``, so that every command takes it.

Source: Rafegas and Vanrell, *Understanding learned CNN features through Filter Decoding with
Substitution*, 2015, section 6. The paper shows its filters as pictures only; these are others of
the same sizes: 4 strokes of 5x5, 14 shapes of 5x5, pooling, 8 letters of 3x3.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Place = tuple[int, int]

STROKES = ("-", "|", "/", "\\")
"""Lines through the middle of 5x5 pixels; the diagonals have three pixels."""

_LEFT, _RIGHT, _UP, _DOWN = (
    (stroke, place)
    for stroke, place in (("-", (2, 0)), ("-", (2, 4)), ("|", (0, 2)), ("|", (4, 2)))
)
SHAPES: Mapping[str, tuple[tuple[str, Place], ...]] = {
    "corner top left": (_RIGHT, _DOWN),
    "corner top right": (_LEFT, _DOWN),
    "corner bottom left": (_RIGHT, _UP),
    "corner bottom right": (_LEFT, _UP),
    "to the left": (_LEFT,),
    "to the right": (_RIGHT,),
    "upwards": (_UP,),
    "downwards": (_DOWN,),
    "T": (_LEFT, _RIGHT, _DOWN),
    "T upside down": (_LEFT, _RIGHT, _UP),
    "T to the right": (_RIGHT, _UP, _DOWN),
    "T to the left": (_LEFT, _UP, _DOWN),
    "right and up": (("/", (1, 3)),),
    "right and down": (("\\", (3, 3)),),
}
"""Strokes and where they are put, by the name of the shape: (row, column) in 5x5 positions."""

LETTERS: Mapping[str, Mapping[Place, str]] = {
    "C": {(0, 0): "corner top left", (2, 0): "corner bottom left",
          (0, 2): "to the left", (2, 2): "to the left"},
    "D": {(0, 0): "corner top left", (2, 0): "corner bottom left",
          (0, 2): "right and down", (2, 2): "right and up"},
    "H": {(0, 0): "downwards", (0, 2): "downwards", (1, 0): "T to the right",
          (1, 2): "T to the left", (2, 0): "upwards", (2, 2): "upwards"},
    "I": {(0, 0): "to the right", (0, 1): "T", (0, 2): "to the left",
          (2, 0): "to the right", (2, 1): "T upside down", (2, 2): "to the left"},
    "L": {(0, 0): "downwards", (2, 0): "corner bottom left", (2, 2): "to the left"},
    "O": {(0, 0): "corner top left", (0, 2): "corner top right",
          (2, 0): "corner bottom left", (2, 2): "corner bottom right"},
    "T": {(0, 0): "to the right", (0, 1): "T", (0, 2): "to the left", (2, 1): "upwards"},
    "U": {(0, 0): "downwards", (0, 2): "downwards",
          (2, 0): "corner bottom left", (2, 2): "corner bottom right"},
}  # fmt: skip
"""Shapes and where they are, by letter: (row, column) in 3x3 pooled positions."""

SIDE = 14
"""Of the image that one unit of the last layer sees: 3 pooled positions, 2 x 3 + 5 - 1 + 5 - 1."""


class Letters(nn.Module):
    """Strokes, shapes, pooling, letters; no biases and no rectifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.strokes = nn.Conv2d(1, len(STROKES), 5, bias=False)
        self.shapes = nn.Conv2d(len(STROKES), len(SHAPES), 5, bias=False)
        self.letters = nn.Conv2d(len(SHAPES), len(LETTERS), 3, bias=False)
        with torch.no_grad():
            self.strokes.weight.copy_(_strokes())
            self.shapes.weight.copy_(_shapes())
            lengths = _lengths(decode_shapes(self))
            self.letters.weight.copy_(_letters() * lengths.view(1, -1, 1, 1))
            # Decoded filters have unit length, so that each excites its own unit more than others.
            self.shapes.weight /= lengths
            self.letters.weight /= _lengths(decode_letters(self))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(self.shapes(self.strokes(x)), 2)
        return self.letters(x).flatten(1)


def letters() -> Letters:
    """Build the network, for ``--factory``."""
    return Letters()


def _lengths(filters: Tensor) -> Tensor:
    return filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _strokes() -> Tensor:
    found = torch.zeros(len(STROKES), 1, 5, 5)
    found[0, 0, 2, :] = 1
    found[1, 0, :, 2] = 1
    for step in (-1, 0, 1):
        found[2, 0, 2 - step, 2 + step] = found[3, 0, 2 + step, 2 + step] = 1
    return found / _lengths(found)


def _shapes() -> Tensor:
    found = torch.zeros(len(SHAPES), len(STROKES), 5, 5)
    for filter_, parts in zip(found, SHAPES.values(), strict=True):
        for stroke, (row, column) in parts:
            filter_[STROKES.index(stroke), row, column] = 1
    return found


def _letters() -> Tensor:
    names = list(SHAPES)
    found = torch.zeros(len(LETTERS), len(SHAPES), 3, 3)
    for filter_, parts in zip(found, LETTERS.values(), strict=True):
        for (row, column), shape in parts.items():
            filter_[names.index(shape), row, column] = 1
    return found


def decode_letters(network: Letters) -> Tensor:
    """Decode the last layer by the recursion of the paper: ``(8, 1, 14, 14)``."""
    large = functional.interpolate(network.letters.weight, scale_factor=2.0, mode="nearest")
    return _substitute(network, large)


def decode_shapes(network: Letters) -> Tensor:
    """Decode the second layer: ``(14, 1, 9, 9)``."""
    return functional.conv_transpose2d(network.shapes.weight, network.strokes.weight)


def _substitute(network: Letters, maps: Tensor) -> Tensor:
    below = functional.conv_transpose2d(maps, network.shapes.weight)
    return functional.conv_transpose2d(below, network.strokes.weight)


def decoded_filters(network: Letters) -> dict[str, dict[str, np.ndarray]]:
    """Decode every filter of the network.

    Returns:
        By layer and by the name of its filter, ``(height, width)`` pixels.
    """
    layers = (
        ("strokes", STROKES, network.strokes.weight),
        ("shapes", tuple(SHAPES), decode_shapes(network)),
        ("letters", tuple(LETTERS), decode_letters(network)),
    )
    return {
        layer: dict(zip(names, filters.detach().numpy()[:, 0], strict=True))
        for layer, names, filters in layers
    }


def activations(network: Letters, image: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Give the map of every filter for an image ``(14, 14)``, pooled as it is and of each layer."""
    with torch.no_grad():
        strokes = network.strokes(torch.from_numpy(image)[None, None])
        shapes = network.shapes(strokes)
        pooled = functional.max_pool2d(shapes, 2)
        found = (strokes, shapes, pooled, network.letters(pooled))
    layers = (("strokes", STROKES), ("shapes", SHAPES), ("pooled", SHAPES), ("letters", LETTERS))
    return {
        layer: dict(zip(names, maps[0].numpy(), strict=True))
        for (layer, names), maps in zip(layers, found, strict=True)
    }


def draw_filters(network: Letters, path: str | Path) -> None:
    """Draw every filter beside its decoded version (Fig. 5)."""
    from filtersurgeon.plots.blocks import write_blocks
    from filtersurgeon.plots.sheet import Row
    from filtersurgeon.plots.tones import signed

    own = {"strokes": network.strokes, "shapes": network.shapes, "letters": network.letters}
    rows = []
    for layer, filters in decoded_filters(network).items():
        names = list(filters)
        weights = own[layer].weight.detach().numpy()
        side = next(iter(filters.values())).shape[0]
        size = weights.shape[-1]
        mosaics = [_mosaic(weight) for weight in weights]
        title = f"{layer}: {weights.shape[1]}x{size}x{size} weights"
        rows.append(Row(title, mosaics, names))
        rows.append(Row(f"decoded, {side}x{side}", [signed(x) for x in filters.values()], names))
    write_blocks(rows, path, across=2, tile=112)


def draw_activations(network: Letters, letter: str, path: str | Path) -> None:
    """Draw the maps of every layer for a decoded letter, below the decoded filters (Fig. 7)."""
    from filtersurgeon.plots.sheet import Row, write_sheet
    from filtersurgeon.plots.tones import activation, signed

    filters = decoded_filters(network)
    image = filters["letters"][letter]
    rows = [Row(f"the image: the decoded letter {letter}", [signed(image)])]
    for layer, maps in activations(network, image).items():
        top = max(float(np.abs(x).max()) for x in maps.values())
        peaks = [f"{x.max() / top:.2f}" for x in maps.values()]
        if layer != "pooled":
            names = list(maps)
            rows.append(
                Row(f"decoded {layer}", [signed(x) for x in filters[layer].values()], names)
            )
        title = "pooled shapes" if layer == "pooled" else layer
        rows.append(Row(f"maps of the {title}, highest value by that of the layer",
                        [activation(_framed(x), top) for x in maps.values()], peaks))  # fmt: skip
    write_sheet(rows, path, columns=len(SHAPES), tile=104)


def draw_connections(network: Letters, chosen: str, path: str | Path) -> None:
    """Draw some letters, the shapes that they read, and the strokes of these (Fig. 6)."""
    from filtersurgeon.plots.canvas import new_figure, write_figure
    from filtersurgeon.plots.tones import signed

    filters = decoded_filters(network)
    shapes = list(dict.fromkeys(shape for name in chosen for shape in LETTERS[name].values()))
    read = {stroke for shape in shapes for stroke, _ in SHAPES[shape]}
    strokes = [stroke for stroke in STROKES if stroke in read]
    levels = ((0.0, "strokes", strokes), (1.0, "shapes", shapes), (2.0, "letters", list(chosen)))
    figure = new_figure(9, 5.4)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    places: dict[tuple[str, str], tuple[float, float]] = {}
    for height, layer, names in levels:
        for place, name in enumerate(names):
            x = (place + 0.5) / len(names)
            places[layer, name] = (x, height)
            inset = figure.add_axes((x - 0.055, 0.08 + 0.325 * height, 0.11, 0.19))
            inset.imshow(signed(filters[layer][name]), interpolation="nearest")
            inset.set(xticks=[], yticks=[])
            inset.set_xlabel(name, fontsize=8, labelpad=2)
    ways = {
        ("shapes", shape, "letters", name) for name in chosen for shape in LETTERS[name].values()
    }
    ways |= {
        ("strokes", stroke, "shapes", shape) for shape in shapes for stroke, _ in SHAPES[shape]
    }
    for below, part, above, whole in sorted(ways):
        (x, y), (u, v) = places[below, part], places[above, whole]
        axes.annotate(
            "", (u, 0.045 + 0.325 * v), (x, 0.275 + 0.325 * y), "figure fraction",
            arrowprops={"arrowstyle": "->", "color": "0.45", "linewidth": 1.0},
        )  # fmt: skip
    axes.axis("off")
    write_figure(figure, path)


def _framed(values: np.ndarray) -> np.ndarray:
    """Put zeros around a single value, which a white page would swallow."""
    return np.pad(values, 1) if values.size == 1 else values


def _mosaic(weight: np.ndarray) -> np.ndarray:
    """Lay the channels ``(channels, height, width)`` of a filter into a square, with gaps."""
    from filtersurgeon.plots.tones import signed

    count, height, width = weight.shape
    across = int(np.ceil(np.sqrt(count)))
    down = -(-count // across)
    size = (down * (height + 1) - 1, across * (width + 1) - 1, 3)
    page = np.full(size, 160 if count > 1 else 255, np.uint8)
    for place, channel in enumerate(weight):
        top, left = place // across * (height + 1), place % across * (width + 1)
        colours = signed(channel, float(np.abs(weight).max()))
        page[top : top + height, left : left + width] = colours
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the network of letters.")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the pictures")
    parser.add_argument("--letter", choices=sorted(LETTERS), default="C")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    network = letters()
    draw_filters(network, options.out / "letters_filters.png")
    draw_connections(network, "CD", options.out / "letters_connections.png")
    draw_activations(network, options.letter, options.out / "letters_activations.png")


if __name__ == "__main__":
    main()
