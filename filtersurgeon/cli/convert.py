from __future__ import annotations

from typing import Annotated

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import check_destination, deliver, opened


def convert(
    source: options.Input = "-",
    activation: Annotated[
        str,
        typer.Option(
            "--activation",
            help="relu, leaky-relu, or proxygrad (a ReLU that leaks in the backward pass).",
            show_default=False,
        ),
    ] = ...,  # type: ignore[assignment]
    slope: Annotated[
        float, typer.Option("--slope", help="Of leaky-relu and proxygrad, below zero.")
    ] = 0.1,
    output: options.Output = None,
    arch: options.Arch = None,
    factory: options.Factory = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Give a network other activations.

    No tensor changes; the file tells which activations the network has from now on, and eval,
    tune and every other command follow it.
    """
    from filtersurgeon.transforms.convert import convert as convert_checkpoint

    check_destination(output, source, force)
    architecture = options.architecture(arch, factory)
    with opened(source, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        converted = convert_checkpoint(checkpoint, activation=activation, slope=slope)
        deliver(converted, output, force=force, quiet=quiet)
    show.note(f"the network's activations are {activation} now", quiet)
