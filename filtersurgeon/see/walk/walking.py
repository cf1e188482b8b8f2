"""``walk``: from a checkpoint and images to one page in three dimensions."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import CheckpointError, OptionError
from filtersurgeon.see.walk.scene import Limit, NetworkScene, Scene, ScenePicture

if TYPE_CHECKING:
    from filtersurgeon.ranking import Ranking
    from filtersurgeon.see.pictures import Picture
    from filtersurgeon.see.walk.stage import Stage

Tell = Callable[[str], None]
MEGABYTE = 1_000_000
SMALLEST_SIDE = 4
FEWEST_CHANNELS = 16


@dataclass(frozen=True)
class WalkSettings:
    """What a walk shows.

    Attributes:
        ranking: the method of the filters' scores; None takes the ranking in the checkpoint's
            metadata, else their length (``l2``).
        decode: globs on layers whose channels are shown decoded.
        maximize: globs on layers whose channels are shown by the image that excites them.
        units: which channels of those layers, such as ``0,3,8-11``, or ``all``.
        max_size: of the page, in megabytes (10^6 bytes); None for no bound.
        seed: of what is drawn.
        device: where to compute.
        preprocess: values that replace those of the first checkpoint's ``pretrained_cfg``.
    """

    ranking: str | None = None
    decode: tuple[str, ...] = ()
    maximize: tuple[str, ...] = ()
    units: str | None = None
    max_size: float | None = 50.0
    seed: int = 0
    device: str = "cpu"
    preprocess: Mapping[str, Any] = field(default_factory=dict)


def walk(
    checkpoint: Checkpoint,
    path: str | Path,
    images: Sequence[str] = (),
    beside: Checkpoint | None = None,
    settings: WalkSettings = WalkSettings(),
    *,
    progress: Callable[[int, int], None] | None = None,
    tell: Tell | None = None,
) -> Scene:
    """Write one HTML file in which a network can be walked through, in any browser, offline.

    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, chapter 4.

    Args:
        checkpoint: the network.
        path: where to; ends in ``.html``.
        images: image files to run it on; may be several.
        beside: a second network, such as the first after surgery, shown beside it with gaps for
            the channels that it has lost.
        settings: what to show.
        progress: told what is done and what is to be done, of pictures that are made.
        tell: told what was assumed or left out.

    Returns:
        What is shown.

    Raises:
        OptionError: no image, or the page cannot be made as small as ``max_size``.
        GraphError: the network cannot be followed.
        ArchitectureError: it cannot be built or run.
        CheckpointError: the file cannot be written.
    """
    from filtersurgeon.checkpoint.atomic import write_bytes
    from filtersurgeon.see.walk.page import render

    players, pictures = open_players(checkpoint, images, beside, settings, tell)
    bases = [player.describe(settings, progress, tell) for player in players]
    bases = place_beside(players, bases, tell)
    tensors = [picture.tensor for picture in pictures]
    shown = tuple(ScenePicture(picture.name, picture.pixels) for picture in pictures)

    def compose(limit: Limit) -> Scene:
        networks = (
            replace(base, seen=tuple(player.stage.see(tensor, limit) for tensor in tensors))
            for player, base in zip(players, bases, strict=True)
        )
        return Scene(shown, tuple(networks), limit)

    scene, page = fit(compose, render, settings.max_size)
    if scene.limit.text and tell:
        tell(f"to stay below {settings.max_size:g} MB, {scene.limit.text}")
    write_bytes(Path(path), page.encode())
    return scene


def fit(
    compose: Callable[[Limit], Scene], render: Callable[[Scene], str], max_size: float | None
) -> tuple[Scene, str]:
    """Find the largest scene whose page is small enough.

    First the maps are averaged down, to three quarters of their largest side again and again;
    then, at 4 pixels, the channels of a layer are halved down to 16.

    Args:
        compose: makes the scene at a limit.
        render: makes its page.
        max_size: in megabytes; None for no bound.

    Raises:
        OptionError: even the least is too large.
    """
    scene = compose(Limit())
    page = render(scene)
    most = float("inf") if max_size is None else max_size * MEGABYTE
    least = len(page)
    if len(page) <= most:
        return scene, page
    shapes = [maps.values.shape for one in scene.networks for seen in one.seen for maps in seen.maps]
    steps = list(limits(shapes))
    best: tuple[Scene, str] | None = None
    low, high = 0, len(steps)
    while low < high:  # the harsher the limit, the smaller the page
        middle = (low + high) // 2
        tried = compose(steps[middle])
        text = render(tried)
        if len(text) <= most:
            best, high = (tried, text), middle
        else:
            low, least = middle + 1, len(text)
    if best is None:
        raise OptionError(
            f"even with {FEWEST_CHANNELS} channels of {SMALLEST_SIDE} pixels the page takes "
            f"{least / MEGABYTE:.1f} MB; name fewer images, or raise --max-size"
        )
    return best


def limits(shapes: Sequence[tuple[int, ...]]) -> Iterator[Limit]:
    """List limits from the mildest to the harshest."""
    side = max(max(shape[1:]) for shape in shapes)
    while side > SMALLEST_SIDE:
        side = max(SMALLEST_SIDE, side * 3 // 4)
        yield Limit(side)
    channels = max(shape[0] for shape in shapes)
    while channels > FEWEST_CHANNELS:
        channels = max(FEWEST_CHANNELS, channels // 2)
        yield Limit(SMALLEST_SIDE, channels)


@dataclass(frozen=True)
class Player:
    """A checkpoint with its network on stage."""

    checkpoint: Checkpoint
    stage: Stage

    def describe(
        self,
        settings: WalkSettings,
        progress: Callable[[int, int], None] | None = None,
        tell: Tell | None = None,
    ) -> NetworkScene:
        """Give the network without images: panels, weights, scores and pictures."""
        from filtersurgeon.see.walk.pictures_made import make_pictures

        ranking = find_ranking(self.checkpoint, settings)
        panels, ways = self.stage.panels(ranking)
        made = make_pictures(
            self.checkpoint, panels, decode=settings.decode, maximize=settings.maximize,
            units=settings.units, seed=settings.seed, device=settings.device,
            preprocess=dict(settings.preprocess), progress=progress, tell=tell,
        )  # fmt: skip
        name = _short(self.checkpoint.name)
        method = ranking.method if ranking else None
        architecture = self.checkpoint.architecture
        return NetworkScene(name, architecture, tuple(panels), tuple(ways), (), method, made)


def _short(name: str) -> str:
    """Give a file's name without its folder, and without the ending of a checkpoint."""
    path = Path(name)
    endings = (".safetensors", ".pt", ".pth", ".bin")
    return (path.stem if path.suffix in endings else path.name) or name


def open_players(
    checkpoint: Checkpoint,
    images: Sequence[str],
    beside: Checkpoint | None,
    settings: WalkSettings,
    tell: Tell | None,
) -> tuple[list[Player], list[Picture]]:
    """Build the networks and open the images as the first of them expects them."""
    from filtersurgeon.learn.networks import open_network
    from filtersurgeon.see.pictures import open_pictures
    from filtersurgeon.see.walk.stage import prepare

    if not images:
        raise OptionError("no image to run the network on: name one with --image FILE")
    found = [x for x in (checkpoint, beside) if x is not None]
    networks = [open_network(x, settings.preprocess) for x in found]
    pictures = open_pictures(networks[0], images, None, tell)
    stages = [prepare(network, pictures[0].tensor, settings.device) for network in networks]
    return [Player(*pair) for pair in zip(found, stages, strict=True)], pictures


def place_beside(
    players: Sequence[Player], bases: Sequence[NetworkScene], tell: Tell | None
) -> list[NetworkScene]:
    """Put the second network, if there is one, beside the first."""
    from filtersurgeon.see.walk.stage import beside

    if len(bases) < 2:
        return list(bases)
    first, second = bases
    panels, ways, missing = beside(
        players[0].stage, players[1].stage, first.panels, (list(second.panels), list(second.ways))
    )
    notes: tuple[str, ...] = ()
    if missing:
        notes = (
            f"the channels of {missing} of {len(panels)} panels of {second.name} cannot be matched "
            f"with those of {first.name}: they stand in their own order",
        )
        if tell:
            tell(notes[0])
    return [first, replace(second, panels=tuple(panels), ways=tuple(ways), notes=notes)]


def find_ranking(checkpoint: Checkpoint, settings: WalkSettings) -> Ranking | None:
    """Rank the filters as asked for, or read the ranking in the checkpoint; else by length.

    Raises:
        OptionError: the method needs images with labels.
    """
    from filtersurgeon.filters import find_layers
    from filtersurgeon.ranking import rank
    from filtersurgeon.ranking.ranking import ANNOTATION
    from filtersurgeon.registry import RANKING_METHODS

    if settings.ranking is None and ANNOTATION in checkpoint.annotations:
        return read_ranking(checkpoint)
    if not find_layers(checkpoint):
        return None
    method = settings.ranking or "l2"
    if "data" in RANKING_METHODS.inputs(method):
        raise OptionError(
            f"{method} looks at labelled images: rank first, with --annotate, and walk through "
            "what that gives"
        )
    return rank(checkpoint, method, layers=["*"], seed=settings.seed)


def read_ranking(checkpoint: Checkpoint) -> Ranking:
    """Read the ranking in a checkpoint's metadata.

    Raises:
        CheckpointError: it is corrupt.
    """
    from filtersurgeon.ranking import Ranking
    from filtersurgeon.ranking.annotation import read_annotation
    from filtersurgeon.ranking.ranking import ANNOTATION, LayerRanking

    orders = read_annotation(checkpoint) or {}
    content = json.loads(checkpoint.annotations[ANNOTATION])
    try:
        layers = {
            x["name"]: LayerRanking(
                x["name"], str(x["kind"]), np.array(x["scores"], np.float64), orders[x["name"]]
            )
            for x in content["layers"]
        }
        return Ranking(str(content["method"]), {}, layers)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.name} carries a corrupt ranking in its metadata: {error}"
        ) from None
