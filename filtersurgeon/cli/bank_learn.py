from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint

Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[INPUT]...", show_default=False, help="Networks; more are a model bank."
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size", metavar="N", help="Side of the kernels, where there are several.", min=1
    ),
]
AllSpatial = Annotated[
    bool, typer.Option("--all-spatial", help="Kernels of standard convolutions too.")
]
Target = Annotated[
    str | None, typer.Option("-o", "--output", metavar="FILE.safetensors", help="Write here.")
]


def learn(
    sources: Inputs = None,
    output: Target = None,
    size: Size = None,
    layers: options.Layers = None,
    all_spatial: AllSpatial = False,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes at most.", min=1)] = 300,
    patience: Annotated[
        int, typer.Option("--patience", help="Stop after so many without progress.", min=1)
    ] = 30,
    lr: Annotated[float, typer.Option("--lr", help="Adam's learning rate at first.")] = 2e-3,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    as_json: options.Json = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Learn a filter autoencoder from the kernels of networks.

    Its code is one number; fsurgeon bank sample decodes banks of any count from it.
    """
    from filtersurgeon.banks.autoencoder import save_autoencoder
    from filtersurgeon.banks.learning import learn_bank
    from filtersurgeon.banks.training import LearningSettings

    path = check_target_file(output, force)
    settings = LearningSettings(epochs, patience, lr, seed=seed, device=device)
    with ExitStack() as stack:
        checkpoints = open_all(stack, sources, allow_pickle, quiet)
        with show.progress("learning", quiet) as progress:
            found = learn_bank(
                checkpoints, settings, size=size, layers=layers, all_spatial=all_spatial,
                progress=progress,
            )  # fmt: skip
    save_autoencoder(found, path, force=force)
    content: dict[str, Any] = {
        "schema": "filtersurgeon.bank-learning/1", "size": list(found.size), **found.recipe
    }  # fmt: skip
    show.result(
        content,
        lambda: [
            f"learnt from {content['kernels']:,} kernels of {content['layers']} layers: "
            f"validation loss {content['validation_loss']:.4f} after {content['best_epoch']} of "
            f"{content['epochs_run']} epochs (1 is the loss of a constant)"
        ],
        as_json=as_json,
    )


def open_all(
    stack: ExitStack, sources: list[str] | None, allow_pickle: bool, quiet: bool
) -> list[Checkpoint]:
    """Open every input until the stack is left; raises OptionError where there are none."""
    if not sources:
        raise OptionError("name at least one network")
    return [
        stack.enter_context(opened(each, allow_pickle=allow_pickle, quiet=quiet))
        for each in sources
    ]


def check_target_file(output: str | None, force: bool) -> str:
    """Refuse, before any work, an output that cannot be written.

    Raises:
        CheckpointError: none, of another kind, or one that exists.
    """
    from pathlib import Path

    from filtersurgeon.checkpoint.atomic import check_target

    if output is None or not output.endswith(".safetensors"):
        raise CheckpointError("give -o FILE.safetensors")
    check_target(Path(output), force)
    return output
