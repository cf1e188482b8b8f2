"""Pictures of decoded filters beside what their units see: Figures 1 and 3 of the paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.data.data import open_data
from filtersurgeon.data.images import LabelledImages, batches, make_loader
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.networks import (
    Network,
    classifier,
    open_network,
    output_names,
    running,
)
from filtersurgeon.plots import tones
from filtersurgeon.plots.blocks import draw_blocks, square_columns
from filtersurgeon.plots.sheet import Row
from filtersurgeon.see.decoding import Decoded, decode_units
from filtersurgeon.see.fit import respond
from filtersurgeon.see.layers import choose_layers
from filtersurgeon.see.linearise import Canvas, find_canvas
from filtersurgeon.see.pictures import image_size
from filtersurgeon.studies._pages import fill_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from filtersurgeon.studies._lab import Lab

FIGURES = ("errors", "classes", "responses")
_MAPS, _WIDEST = 12, 4
_THRESHOLD = 0.5
"""Of a filter's largest magnitude, in the second column of Figure 1."""


@dataclass(frozen=True)
class _Opened:
    """A network, its images, and how to decode its layers."""

    network: Network
    images: LabelledImages
    upsample: str
    device: str
    batch_size: int

    def decoded(self, layer: str) -> tuple[Canvas, Decoded]:
        """Decode all units of a layer."""
        size = image_size(self.network)
        canvas = find_canvas(self.network.model, layer, size, self.upsample, self.device)
        return canvas, decode_units(canvas, range(canvas.channels))


def _open(lab: Lab, upsample: str) -> _Opened:
    network = open_network(lab.network(), lab.preprocess)
    images = open_data(lab.images(), network.preprocessing, network.n_classes)
    how = lab.evaluation
    return _Opened(network, images, upsample, how.device, how.batch_size)


@dataclass(frozen=True)
class ClassResponses:
    """What the decoded class filters answer to the image that each answers highest.

    Attributes:
        decoded: the filters.
        names: of the classes.
        places: ``n`` positions of the images: the i-th has the highest response to filter i.
        labels: ``n`` true classes of these images.
        values: ``(n filters, n images)`` responses, the mean image taken off.
        pictures: the images in their own size.
    """

    decoded: Decoded
    names: tuple[str, ...]
    places: list[int]
    labels: list[int]
    values: np.ndarray
    pictures: list[np.ndarray]

    def to_json(self) -> dict[str, Any]:
        """Give the responses, and how many images have the highest at their own filter."""
        best = self.values.argmax(0)
        return {
            "images": self.places, "labels": self.labels, "responses": self.values.tolist(),
            "diagonal": int((best == np.arange(len(best))).sum()),
            "own_class": int((np.array(self.labels) == np.arange(len(best))).sum()),
        }  # fmt: skip


def find_class_responses(lab: Lab, upsample: str) -> ClassResponses:
    """Find the images with the highest responses to the class filters (Fig. 1).

    Args:
        lab: the network and the images.
        upsample: how pooling is undone.
    """
    opened = _open(lab, upsample)
    with running(opened.network.name):
        canvas, decoded = opened.decoded(classifier(opened.network.model)[0])
        parts, labels = [], []
        for batch, truth in batches(make_loader(opened.images, opened.batch_size)):
            answers = respond(opened.network, canvas, decoded, batch)[1]
            parts.append(answers.flatten(1).cpu().numpy())
            labels += truth.tolist()
    values = np.concatenate(parts)
    values -= values.mean(0)
    places = [int(place) for place in values.argmax(0)]
    names = output_names(opened.network) or tuple(map(str, range(values.shape[1])))
    return ClassResponses(
        decoded, names, places, [labels[i] for i in places], values[places].T,
        [_picture(opened.images, place) for place in places],
    )  # fmt: skip


def draw_classes(figure: Figure, found: ClassResponses) -> None:
    """Draw the class filters, the images with the highest responses, and all responses."""
    count = len(found.places)
    figure.set_layout_engine("none")
    figure.set_size_inches(0.72 * (count + 3), 0.72 * (count + 2))
    grid = figure.add_gridspec(
        count + 1, count + 2, left=0.07, right=0.99, bottom=0.02, top=0.93, wspace=0.08, hspace=0.08
    )
    strong = found.decoded.thresholded(_THRESHOLD)
    for row in range(count):
        for column, values in enumerate((found.decoded.filters[row], strong[row])):
            axes = _show(figure, grid[row + 1, column], tones.opponent(values))
            if column == 0:
                axes.set_ylabel(found.names[row], fontsize=8)
    for column, (picture, label) in enumerate(zip(found.pictures, found.labels, strict=True)):
        axes = _show(figure, grid[0, column + 2], picture)
        axes.set_title(found.names[label], fontsize=8)
    axes = figure.add_subplot(grid[1:, 2:])
    bound = float(np.abs(found.values).max()) or 1.0
    axes.imshow(tones.signed(found.values, bound), interpolation="nearest", aspect="auto")
    for (row, column), value in np.ndenumerate(found.values / bound):
        best = row == int(found.values[:, column].argmax())
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7,
                  fontweight="bold" if best else "normal",
                  color="white" if abs(value) > 0.6 else "black")  # fmt: skip
    axes.set(xticks=[], yticks=[])


def _show(figure: Figure, place: Any, pixels: np.ndarray) -> Any:
    axes = figure.add_subplot(place)
    axes.imshow(pixels, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    return axes


def draw_responses(figure: Figure, rows: Sequence[Row]) -> None:
    """Draw the responses of each layer to an image, beside those of the decoded filters."""
    fill_figure(figure, draw_blocks(rows, across=2))


def response_rows(lab: Lab, upsample: str, label: int) -> Iterator[Row]:
    """Yield the image, and for each layer the network's responses and the filters' (Fig. 3).

    Each is scaled to 0..1 over all units and positions, as in Eq. 3. Layers of one position show
    their units as the pixels of one picture.

    Args:
        lab: the network and the images; ``layers`` chooses among its layers.
        upsample: how pooling is undone.
        label: class of the image.

    Raises:
        OptionError: there is no image of this class.
    """
    opened = _open(lab, upsample)
    place = _image_of_class(opened.images, label)
    image = opened.images[place][0]
    with running(opened.network.name):
        for number, layer in enumerate(choose_layers(opened.network.model, lab.layers or ["*"])):
            canvas, decoded = opened.decoded(layer)
            both = respond(opened.network, canvas, decoded, image[None])  # type: ignore[index]
            own, predicted = (_scaled(x[0].cpu().numpy()) for x in both)
            if number == 0:
                yield Row("the image", [_picture(opened.images, place)])
                first = [tones.opponent(values) for values in decoded.filters[:_MAPS]]
                yield Row(f"decoded filters of {layer}", first)
            error = float(((own - predicted) ** 2).mean())
            size = "x".join(map(str, own.shape))
            yield Row(f"{layer} {size}: network", _maps(own))
            yield Row(f"decoded filters, error {error:.4f}", _maps(predicted))


def _image_of_class(images: LabelledImages, label: int) -> int:
    for position, index in enumerate(images.indices):
        if int(images.source.labels[index]) == label:
            return position
    raise OptionError(f"shown={label}: `data` has no image of this class")


def _scaled(responses: np.ndarray) -> np.ndarray:
    low, high = responses.min(), responses.max()
    scaled: np.ndarray = (responses - low) / max(float(high - low), 1e-30)
    return scaled


def _maps(responses: np.ndarray) -> list[np.ndarray]:
    """Give the first maps of a layer as pictures, or its units as the pixels of one."""
    if responses.ndim == 3 and max(responses.shape[1:]) > 1:
        return [tones.activation(x, 1.0) for x in responses[:_MAPS]]
    values = responses.ravel()
    height = next(n for n in range(int(len(values) ** 0.5), 0, -1) if len(values) % n == 0)
    width = len(values) // height
    if width > _WIDEST * height:
        width = square_columns(len(values))
    page = np.zeros(width * -(-len(values) // width))
    page[: len(values)] = values
    return [tones.activation(page.reshape(-1, width), 1.0)]


def _picture(images: LabelledImages, position: int) -> np.ndarray:
    """Give an image of a data set in its own size."""
    return np.asarray(images.source.image(images.indices[position]).convert("RGB"))
