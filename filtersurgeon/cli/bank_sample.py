from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bank_learn import (
    BANK_FILE,
    AllSpatial,
    Inputs,
    Size,
    Trusted,
    check_target_file,
    open_all,
)
from filtersurgeon.cli.bundles import replaced, verb, without
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.banks import FilterBank


@verb("fsurgeon bank sample m.safetensors --from kmeans --count 8 --size 5 -o bank.safetensors")
def sample(
    sources: Inputs = None,
    *,
    count: Annotated[
        int, typer.Option("--count", "-k", metavar="K", help="Number of members.", min=1)
    ] = 50,
    origin: Annotated[
        str,
        options.choice(
            "--from",
            among=("code", "archetypes", "kmeans", "scale-space", "dct"),
            help="code: decode the autoencoder INPUT. archetypes or kmeans: cluster the kernels of "
            "the networks INPUT. scale-space: derivatives of Gaussians for kernels of all odd "
            "sizes. dct: cosines, without INPUT.",
        ),
    ] = "code",
    size: Size = None,
    layers: options.Layers = None,
    all_spatial: AllSpatial = False,
    seed: options.Seed = 0,
    picture: Annotated[str | None, options.picture("Draw the bank (PNG, SVG, PDF).")] = None,
    network: Trusted,
    output: Annotated[options.ResultOutput, without("as_json"), replaced(output=BANK_FILE)],
    general: options.General,
) -> None:
    """Make a bank of K kernels.

    The kernels are decoded from evenly spaced points of an autoencoder's code, as in the paper. For
    comparison: archetypes or k-means centres of trained kernels, or cosines of low frequency.
    """
    from filtersurgeon.banks import save_bank
    from filtersurgeon.banks.learning import sample_bank
    from filtersurgeon.plots.pictures import check_picture_path, draw_bank

    path = check_target_file(output.output, output.force)
    check_picture_path(picture, output.force)
    if origin in ("code", "dct") and (layers or all_spatial):
        raise OptionError(
            f"--layers and --all-spatial have no effect with --from {origin}; leave them out"
        )
    if origin not in ("code", "dct"):
        with open_all(network, sources, general.quiet) as checkpoints:
            bank = sample_bank(
                checkpoints, count, origin=origin, size=size, layers=layers,
                all_spatial=all_spatial, seed=seed,
            )  # fmt: skip
    else:
        bank = _sample(sources, count, origin, size)
    save_bank(bank, path, force=output.force)
    if picture:
        draw_bank(bank, picture)
    height, width = bank.kernel_size
    show.note(f"{len(bank)} kernels of {height}x{width}: {bank.description}", general.quiet)


def _sample(sources: list[str] | None, count: int, origin: str, size: int | None) -> FilterBank:
    """Make a bank without networks."""
    from filtersurgeon.banks.learning import sample_bank

    if origin == "dct" and sources:
        raise OptionError("--from dct takes no INPUT")
    if origin != "dct" and len(sources or ()) != 1:
        raise OptionError("INPUT should be one autoencoder, made by fsurgeon bank learn")
    return sample_bank(sources[0] if sources else None, count, origin=origin, size=size)
