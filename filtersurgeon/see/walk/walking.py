"""``walk``: from a checkpoint and images to one page in three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import OptionError
from filtersurgeon.see.walk.scene import Scene
from filtersurgeon.see.walk.settings import USUAL, WalkSettings


def walk(
    checkpoint: Checkpoint,
    path: str | Path,
    images: Sequence[str] = (),
    beside: Checkpoint | None = None,
    settings: WalkSettings = USUAL,
    *,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] | None = None,
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
    from filtersurgeon.learn.networks import open_network
    from filtersurgeon.see.pictures import open_pictures
    from filtersurgeon.see.walk.bounding import fit
    from filtersurgeon.see.walk.page import render
    from filtersurgeon.see.walk.players import assemble
    from filtersurgeon.see.walk.scores import check_method

    if not images:
        raise OptionError("no image to run the network on: name one with --image FILE")
    check_method(settings)
    checkpoints = [checkpoint] if beside is None else [checkpoint, beside]
    networks = [open_network(one, settings.preprocess) for one in checkpoints]
    pictures = open_pictures(networks[0], images, None, tell)
    players = assemble(checkpoints, networks, pictures[0], settings, progress, tell)
    scene, page = fit(lambda limit: players.scene(pictures, limit), render, settings.max_size)
    if scene.limit.text and tell:
        tell(f"to stay below {settings.max_size:g} MB, {scene.limit.text}")
    write_bytes(Path(path), page.encode())
    return scene
