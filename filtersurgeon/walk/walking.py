"""``walk``: from a checkpoint and images to one page in three dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.errors import OptionError
from filtersurgeon.walk.scene import Scene
from filtersurgeon.walk.settings import USUAL, WalkSettings


def walk(
    checkpoint: Checkpoint,
    path: str | Path,
    images: Sequence[str] = (),
    beside: Checkpoint | None = None,
    settings: WalkSettings = USUAL,
    *,
    progress: Progress | None = None,
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

    Examples:
        >>> import filtersurgeon as fs
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> with TemporaryDirectory() as folder:
        ...     image = Path(folder, "grey.png")
        ...     Image.new("RGB", (160, 160), "grey").save(image)
        ...     scene = fs.walk(checkpoint, Path(folder, "walk.html"), [str(image)])
        >>> scene.networks[0].maps("conv1.0").shape
        (16, 80, 80)
    """
    from filtersurgeon.checkpoint.atomic import write_bytes
    from filtersurgeon.walk.opening import open_walk

    if not images:
        raise OptionError("no image to run the network on: name one with `images` FILE")
    opened = open_walk(checkpoint, images, beside, settings, progress, tell)
    write_bytes(Path(path), opened.page.encode())
    return opened.scene
