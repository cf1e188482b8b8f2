"""The networks of a walk, ready to be run on images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.walk.scene import WHOLE, Limit, NetworkScene, Scene, ScenePicture, Seen
from filtersurgeon.walk.scores import find_ranking
from filtersurgeon.walk.settings import WalkSettings
from filtersurgeon.walk.stage import Stage, beside, prepare

if TYPE_CHECKING:
    from filtersurgeon.learn.networks import Network
    from filtersurgeon.see.pictures import Picture

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Players:
    """One network, or two side by side.

    Attributes:
        stages: the networks.
        bases: what is known of them without images.
    """

    stages: tuple[Stage, ...]
    bases: tuple[NetworkScene, ...]

    def see(self, picture: Picture, limit: Limit = WHOLE) -> tuple[Seen, ...]:
        """Run every network on an image."""
        return tuple(stage.see(picture.tensor, limit) for stage in self.stages)

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
) -> Players:
    """Follow the networks, find places for their panels, and tell what is known of them.

    Args:
        checkpoints: one or two.
        networks: theirs.
        picture: what they are followed with.
        settings: what is told of them.
        progress: told what is done and what is to be done, of pictures that are made.
        tell: told what could not be matched.

    Raises:
        GraphError: a network cannot be followed.
    """
    stages = [prepare(network, picture.tensor, settings.device) for network in networks]
    bases = [
        _describe(checkpoint, stage, settings, progress, tell)
        for checkpoint, stage in zip(checkpoints, stages, strict=True)
    ]
    if len(bases) > 1:
        bases[1] = _place(stages, bases, tell)
    return Players(tuple(stages), tuple(bases))


def _describe(
    checkpoint: Checkpoint,
    stage: Stage,
    settings: WalkSettings,
    progress: Progress | None,
    tell: Tell | None,
) -> NetworkScene:
    from filtersurgeon.walk.pictures_made import make_pictures

    ranking = find_ranking(checkpoint, settings)
    panels, ways = stage.panels(ranking)
    made = make_pictures(
        checkpoint, panels, decode=settings.decode, maximize=settings.maximize,
        units=settings.units, seed=settings.seed, device=settings.device,
        preprocess=dict(settings.preprocess), progress=progress, tell=tell,
    )  # fmt: skip
    return NetworkScene(
        short_name(checkpoint.name), checkpoint.architecture, tuple(panels), tuple(ways), (),
        ranking.method if ranking else None, made,
    )  # fmt: skip


def _place(
    stages: Sequence[Stage], bases: Sequence[NetworkScene], tell: Tell | None
) -> NetworkScene:
    """Put the second network beside the first."""
    first, second = bases
    panels, ways, missing = beside(
        stages[0], stages[1], first.panels, (list(second.panels), list(second.ways))
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
