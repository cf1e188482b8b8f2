from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import only, replaced, verb
from filtersurgeon.cli.running import Computation
from filtersurgeon.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint

Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[INPUT]...",
        show_default=False,
        help="Networks; the kernels of several are pooled.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size",
        metavar="N",
        help="Kernel size, if the network has several.",
        min=1,
    ),
]
AllSpatial = Annotated[
    bool, typer.Option("--all-spatial", help="Include kernels of standard convolutions.")
]


@dataclass(frozen=True)
class BankOutput(options.DrawnOutput):
    """Where a bank goes, and its picture."""

    @property
    def bank(self) -> str | None:
        """The file of the bank, if ``-o`` names one."""
        return self._of(".safetensors")

    def check(self) -> None:
        """Refuse, before any work, files that cannot be written."""
        if self.bank is None:
            super().check()
            return
        check_target_file(self.bank, self.force)
        self.check_drawing()

    def show(self, content: dict[str, Any], render: Callable[[], Iterable[Any]]) -> None:
        """Print the result, also beside a bank, or write it to its file."""
        if self.bank is None:
            super().show(content, render)
        else:
            show.result(content, render, as_json=self.as_json)


BANK_FILE = options.output_option("FILE.safetensors", "Write the bank to this file.")
Trusted = Annotated[options.Network, only("allow_pickle")]
Debug = Annotated[options.General, only("debug")]


@verb("fsurgeon bank learn m.safetensors --size 5 --epochs 5 -o coder.safetensors")
def learn(
    sources: Inputs = None,
    *,
    size: Size = None,
    layers: options.Layers = None,
    all_spatial: AllSpatial = False,
    epochs: Annotated[
        int, typer.Option("--epochs", metavar="N", help="Maximum number of epochs.", min=1)
    ] = 300,
    patience: Annotated[
        int,
        typer.Option(
            "--patience",
            metavar="N",
            help="Stop after N epochs without a better validation loss.",
            min=1,
        ),
    ] = 30,
    lr: Annotated[
        float, typer.Option("--lr", metavar="RATE", help="Initial learning rate of Adam.")
    ] = 2e-3,
    seed: options.Seed = 0,
    computation: Annotated[Computation, only("device")],
    network: Trusted,
    output: Annotated[options.ResultOutput, replaced(output=BANK_FILE)],
    general: options.General,
) -> None:
    """Learn a filter autoencoder from the kernels of networks.

    Its code is one number; fsurgeon bank sample decodes banks of any size from it.
    """
    from filtersurgeon.banks.autoencoder import LearningSettings, save_autoencoder
    from filtersurgeon.banks.learning import learn_bank

    path = check_target_file(output.output, output.force)
    settings = LearningSettings(epochs, patience, lr, seed=seed, device=computation.device)
    with ExitStack() as stack:
        checkpoints = stack.enter_context(open_all(network, sources, general.quiet))
        with show.progress("learning", general.quiet) as progress:
            found = learn_bank(
                checkpoints, settings, size=size, layers=layers, all_spatial=all_spatial,
                progress=progress,
            )  # fmt: skip
    save_autoencoder(found, path, force=output.force)
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
        as_json=output.as_json,
    )


@contextmanager
def open_all(
    network: options.Network, sources: list[str] | None, quiet: bool
) -> Iterator[list[Checkpoint]]:
    """Open every input.

    Raises:
        OptionError: there are none.
    """
    if not sources:
        raise OptionError("no INPUT; pass at least one network")
    with network.all_opened(sources, quiet) as checkpoints:
        yield checkpoints


def check_target_file(output: str | None, force: bool) -> str:
    """Refuse, before any work, an output that cannot be written.

    Raises:
        CheckpointError: none, of another kind, or one that exists.
    """
    from pathlib import Path

    from filtersurgeon.checkpoint.atomic import check_target

    if output is None or not output.endswith(".safetensors"):
        raise CheckpointError("no output; pass -o FILE.safetensors")
    check_target(Path(output), force)
    return output
