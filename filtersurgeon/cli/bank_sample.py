from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bank_learn import (
    AllSpatial,
    Inputs,
    Size,
    Target,
    check_target_file,
    open_all,
)
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.banks import FilterBank


def sample(
    sources: Inputs = None,
    count: Annotated[
        int, typer.Option("--count", "-k", metavar="K", help="Number of members.", min=1)
    ] = 50,
    origin: Annotated[
        str,
        typer.Option(
            "--from",
            help="code: of the autoencoder INPUT; archetypes or kmeans: of the kernels of the "
            "networks INPUT; dct: no INPUT.",
        ),
    ] = "code",
    output: Target = None,
    size: Size = None,
    layers: options.Layers = None,
    all_spatial: AllSpatial = False,
    seed: options.Seed = 0,
    picture: Annotated[
        str | None, typer.Option("--picture", metavar="FILE", help="Draw it (PNG, SVG, PDF).")
    ] = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Make a bank of K kernels.

    From evenly spaced points of an autoencoder's code, as the paper does, or from one of its
    rivals: archetypes or k-means centres of trained kernels, or cosines of low frequency.
    """
    from filtersurgeon.banks import save_bank
    from filtersurgeon.plots.pictures import check_picture_path, draw_bank

    path = check_target_file(output, force)
    check_picture_path(picture, force)
    if origin in ("code", "dct") and (layers or all_spatial):
        raise OptionError(f"--layers and --all-spatial say nothing with --from {origin}")
    bank = _sampled(sources, count, origin, size, layers, all_spatial, seed, allow_pickle, quiet)
    save_bank(bank, path, force=force)
    if picture:
        draw_bank(bank, picture)
    height, width = bank.kernel_size
    show.note(f"{len(bank)} kernels of {height}x{width}: {bank.description}", quiet)


def _sampled(
    sources: list[str] | None,
    count: int,
    origin: str,
    size: int | None,
    layers: list[str] | None,
    all_spatial: bool,
    seed: int,
    allow_pickle: bool,
    quiet: bool,
) -> FilterBank:
    from filtersurgeon.banks.learning import sample_bank

    if origin == "dct":
        if sources:
            raise OptionError("--from dct takes no INPUT")
        return sample_bank(None, count, origin=origin, size=size)
    if origin not in ("archetypes", "kmeans"):
        if len(sources or ()) != 1:
            raise OptionError("name the autoencoder that fsurgeon bank learn made")
        return sample_bank(sources[0] if sources else None, count, origin=origin, size=size)
    with ExitStack() as stack:
        checkpoints = open_all(stack, sources, allow_pickle, quiet)
        return sample_bank(
            checkpoints, count, origin=origin, size=size, layers=layers, all_spatial=all_spatial,
            seed=seed,
        )  # fmt: skip
