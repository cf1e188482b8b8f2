"""Read and write the checkpoints of a command, by the same rules for every command."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from filtersurgeon.cli import show
from filtersurgeon.errors import CheckpointError, EmptyInputError, OptionError, PipeError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint


opened_names: list[str] = []
"""What the command has opened, for messages."""


@contextmanager
def opened(
    source: str,
    *,
    arch: str | None = None,
    quiet: bool = False,
    **more: Any,
) -> Iterator[Checkpoint]:
    """Open an input; a pipe is read to its end even if only its header was of interest.

    Args:
        source: what to open.
        arch: the architecture, if one was given.
        quiet: print no notes.
        more: further arguments of :func:`filtersurgeon.load`.

    Raises:
        CheckpointError: nothing was given, or what was given cannot be read.
        PipeError: the command before the pipe wrote nothing.
    """
    from filtersurgeon.networks.files import load

    if source == "-" and sys.stdin.isatty():
        raise CheckpointError("no INPUT; pass a checkpoint, or pipe one in")
    try:
        loaded = load(source, arch=arch, **more)
    except EmptyInputError as error:
        if source == "-" and stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
            raise PipeError(
                "standard input is empty: the command before the pipe wrote nothing"
            ) from error
        raise
    with show.warnings_as_notes(quiet), show.prints_diverted(), loaded as checkpoint:
        opened_names.append(checkpoint.name)
        for text in checkpoint.notes:
            show.note(f"note: {text}", quiet)
        yield checkpoint


@contextmanager
def begun(
    source: str,
    untrained: bool,
    architecture: str | None,
    seed: int,
    allow_pickle: bool,
    quiet: bool,
) -> Iterator[Checkpoint]:
    """Open an input, or build the network of an architecture with random weights.

    Raises:
        OptionError: no architecture, or two.
    """
    if not untrained:
        with opened(
            source, arch=architecture, allow_pickle=allow_pickle, quiet=quiet
        ) as checkpoint:
            yield checkpoint
        return
    from filtersurgeon.networks.hub import untrained as make

    if architecture and source != "-":
        raise OptionError("--untrained takes one architecture: INPUT, --arch or --factory")
    named = architecture or source
    if named == "-":
        raise OptionError("--untrained needs an architecture, such as timm:resnet18")
    with show.prints_diverted(), make(named, seed=seed) as checkpoint:
        opened_names.append(checkpoint.name)
        yield checkpoint


def check_destination(output: str | None, source: str, force: bool) -> None:
    """Refuse, before any work, an output that cannot or must not be written.

    Raises:
        CheckpointError: no output and a terminal, or an unusable path.
    """
    from filtersurgeon.checkpoint.sinks import check_output

    if output is not None:
        # A redirected file is an input too, and has this name.
        check_output(output, "/dev/stdin" if source == "-" else source, force=force)
    elif show.stdout().isatty():
        raise CheckpointError(
            "refusing to write binary data to the terminal; use -o FILE.safetensors or a pipe"
        )


def deliver(
    checkpoint: Checkpoint,
    output: str | None,
    *,
    force: bool,
    quiet: bool,
    keep_names: bool = False,
) -> None:
    """Write a checkpoint to its file or folder, or into the pipe.

    Raises:
        CheckpointError: it cannot be written; the reader has closed the pipe.
        LayerError: a pending change turns out to be impossible.
    """
    from filtersurgeon.networks.files import save, send

    with show.progress("writing", quiet, "bytes") as progress:
        if output is not None:
            save(checkpoint, output, force=force, keep_names=keep_names, progress=progress)
            return
        with show.standard_output() as stream:
            send(checkpoint, stream.buffer, progress, keep_names=keep_names)
