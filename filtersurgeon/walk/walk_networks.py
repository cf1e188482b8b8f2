"""The networks of a walk: their rankings, runs on images, and decoded and maximised pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.errors import OptionError
from filtersurgeon.plots import tones
from filtersurgeon.registry import RANKING_METHODS
from filtersurgeon.walk.follow import TIMES
from filtersurgeon.walk.prepared_network import PreparedNetwork, beside, prepare
from filtersurgeon.walk.scene import (
    WHOLE,
    Limit,
    Made,
    NetworkScene,
    Panel,
    Scene,
    ScenePicture,
    Seen,
    WalkSettings,
)

if TYPE_CHECKING:
    from filtersurgeon.learn.networks import Network
    from filtersurgeon.ranking import Ranking
    from filtersurgeon.see.pictures import Picture

DEFAULT = "l2"


def check_method(settings: WalkSettings) -> None:
    """Refuse, before any work, a method that is unknown or looks at images with labels.

    Raises:
        OptionError: it cannot be used here.
    """
    if settings.ranking and "data" in RANKING_METHODS.inputs(settings.ranking):
        raise OptionError(
            f"{settings.ranking} needs labelled images: rank first, with fsurgeon rank "
            "--annotate, and walk through what that gives"
        )


def find_ranking(checkpoint: Checkpoint, settings: WalkSettings) -> Ranking | None:
    """Rank the filters as asked for, or read the ranking in the checkpoint; else by length.

    Raises:
        OptionError: the method needs images with labels.
        CheckpointError: the ranking in the checkpoint is corrupt.
    """
    from filtersurgeon.filters import find_layers
    from filtersurgeon.ranking import rank
    from filtersurgeon.ranking.annotation import read_ranking

    stored = None if settings.ranking else read_ranking(checkpoint)
    if stored is not None:
        return stored
    if not find_layers(checkpoint):
        return None
    check_method(settings)
    return rank(checkpoint, settings.ranking or DEFAULT, layers=["*"], seed=settings.seed)


Tell = Callable[[str], None]


@dataclass(frozen=True)
class WalkNetworks:
    """One network, or two side by side.

    Attributes:
        all_prepared: the networks.
        bases: what is known of them without images.
    """

    all_prepared: tuple[PreparedNetwork, ...]
    bases: tuple[NetworkScene, ...]

    def see(self, picture: Picture, limit: Limit = WHOLE) -> tuple[Seen, ...]:
        """Run every network on an image."""
        return tuple(prepared.see(picture.tensor, limit) for prepared in self.all_prepared)

    def scene(self, pictures: Sequence[Picture], limit: Limit = WHOLE) -> Scene:
        """Run every network on every image."""
        seen = [self.see(picture, limit) for picture in pictures]
        networks = (
            replace(base, seen=tuple(one[number] for one in seen))
            for number, base in enumerate(self.bases)
        )
        shown = tuple(ScenePicture(picture.name, picture.pixels) for picture in pictures)
        return Scene(shown, tuple(networks), limit)


def assemble(
    checkpoints: Sequence[Checkpoint],
    networks: Sequence[Network],
    picture: Picture,
    settings: WalkSettings,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> WalkNetworks:
    """Follow the networks, find places for their panels, and tell what is known of them.

    Args:
        checkpoints: one or two.
        networks: theirs.
        picture: what they are followed with.
        settings: what the page shows of them.
        progress: told what is done and what is to be done, of pictures that are made.
        tell: told what could not be matched.

    Raises:
        GraphError: a network cannot be followed.
    """
    all_prepared = [prepare(network, picture.tensor, settings.device) for network in networks]
    bases = [
        _describe(checkpoint, prepared, settings, progress, tell)
        for checkpoint, prepared in zip(checkpoints, all_prepared, strict=True)
    ]
    if len(bases) > 1:
        bases[1] = _place(all_prepared, bases, tell)
    return WalkNetworks(tuple(all_prepared), tuple(bases))


def _describe(
    checkpoint: Checkpoint,
    prepared: PreparedNetwork,
    settings: WalkSettings,
    progress: Progress | None,
    tell: Tell | None,
) -> NetworkScene:
    ranking = find_ranking(checkpoint, settings)
    panels, ways = prepared.panels(ranking)
    made = make_pictures(
        checkpoint, panels, decode=settings.decode, maximize=settings.maximize,
        units=settings.units, seed=settings.seed, device=settings.device,
        preprocess=dict(settings.preprocess), progress=progress, tell=tell,
    )  # fmt: skip
    return NetworkScene(
        short_name(checkpoint.name), checkpoint.architecture, tuple(panels), tuple(ways), (),
        ranking.method if ranking else None, made, (), prepared.labels, prepared.class_panels,
        prepared.score_panel,
    )  # fmt: skip


def _place(
    all_prepared: Sequence[PreparedNetwork], bases: Sequence[NetworkScene], tell: Tell | None
) -> NetworkScene:
    """Put the second network beside the first."""
    first, second = bases
    panels, ways, missing = beside(
        all_prepared[0], all_prepared[1], first.panels, (list(second.panels), list(second.ways))
    )
    notes: tuple[str, ...] = ()
    if missing:
        notes = (
            f"the channels of {missing} of {len(panels)} panels of {second.name} cannot be matched "
            f"with those of {first.name}: they stand in their own order",
        )
        if tell:
            tell(notes[0])
    return replace(second, panels=tuple(panels), ways=tuple(ways), notes=notes)


def short_name(name: str) -> str:
    """Give a file's name without its folder, and without the ending of a checkpoint."""
    path = Path(name)
    endings = (".safetensors", ".pt", ".pth", ".bin")
    return (path.stem if path.suffix in endings else path.name) or name


LARGEST = 128
"""Pictures are made no larger than this for the page."""


def make_pictures(
    checkpoint: Checkpoint,
    panels: Sequence[Panel],
    *,
    decode: Sequence[str] = (),
    maximize: Sequence[str] = (),
    units: str | None = None,
    seed: int = 0,
    device: str = "auto",
    preprocess: dict[str, Any] | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[tuple[int, int], list[Made]]:
    """Decode or maximise the channels of layers, see the verbs of these names.

    Args:
        checkpoint: the network.
        panels: what is shown of it.
        decode: globs on the layers to decode.
        maximize: globs on the layers to make images for.
        units: which of their channels; None: the first 64.
        seed: of the images.
        device: where to compute; ``auto`` is a GPU if there is one.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        progress: told what is done, and what is to be done.
        tell: told what was left out.

    Returns:
        By panel number and channel.
    """
    found: dict[tuple[int, int], list[Made]] = {}
    numbers = {panel.step.name: number for number, panel in enumerate(panels)}
    common: dict[str, Any] = {
        "units": units, "device": device, "preprocess": preprocess, "progress": progress,
        "tell": tell,
    }  # fmt: skip
    for image in (
        *(decode_images(checkpoint, decode, **common) if decode else ()),
        *(maximize_images(checkpoint, maximize, seed=seed, **common) if maximize else ()),
    ):
        if image.layer in numbers:
            found.setdefault((numbers[image.layer], image.unit), []).append(image.made)
    return found


@dataclass(frozen=True)
class MadeImage:
    """A picture of a channel with the values that it shows.

    Attributes:
        layer: the module's name.
        unit: the channel.
        made: the picture.
        values: ``(channels, height, width)``: a generated image normalised as the network expects,
            or a decoded filter.
    """

    layer: str
    unit: int
    made: Made
    values: np.ndarray


def decode_images(
    checkpoint: Checkpoint,
    layers: Sequence[str],
    *,
    units: str | None = None,
    device: str = "auto",
    **common: Any,
) -> Iterator[MadeImage]:
    """Decode channels of layers and draw them; the words are those of :func:`make_pictures`."""
    from filtersurgeon.see.decoding import DecodeSettings, decode

    for row in decode(checkpoint, DecodeSettings(list(layers), units, device=device), **common):
        for unit, values in zip(row.units, row.filters, strict=True):
            text = f"{TIMES.join(map(str, values.shape[1:]))} pixels of the input"
            made = Made("decoded", _small(tones.opponent(values)), text)
            yield MadeImage(row.layer, unit, made, values)


def maximize_images(
    checkpoint: Checkpoint,
    layers: Sequence[str],
    *,
    units: str | None = None,
    seed: int = 0,
    **common: Any,
) -> Iterator[MadeImage]:
    """Generate images for channels of layers; the words are those of :func:`make_pictures`."""
    from filtersurgeon.see.ascent import AscentSettings
    from filtersurgeon.see.maximizing import maximize

    how = AscentSettings(seed=seed)
    for row in maximize(checkpoint, how, layers=list(layers), units=units, **common):
        drawn = zip(row.units, row.pixels, row.images, row.after, strict=True)
        for unit, pixels, values, after in drawn:
            made = Made("maximised", _small(pixels), f"mean activation {after:.3g}")
            yield MadeImage(row.layer, unit, made, values)


def _small(pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    if max(pixels.shape[:2]) <= LARGEST:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return np.asarray(image)
