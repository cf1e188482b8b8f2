from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bank_learn import Inputs, Trusted, open_all
from filtersurgeon.cli.bundles import replaced, verb
from filtersurgeon.cli.complete import banks

if TYPE_CHECKING:
    from filtersurgeon.see.kernel_atlas import KernelAtlas

_ENDINGS = (".html", ".json", ".csv")
_FIT = ("sigma_x", "sigma_y", "residual")
_OUTPUT = options.output_option(
    "FILE", "Write the page (.html), or a table of all kernels (.json, .csv)."
)


@verb("fsurgeon bank atlas m.safetensors n.safetensors --method pca -o atlas.html")
def atlas(
    sources: Inputs = None,
    *,
    bank: Annotated[
        str,
        typer.Option(
            "--bank", "-b", metavar="BANK", help="Name or file of the bank to assign kernels to.",
            autocompletion=banks,
        ),
    ] = "dog8",
    method: Annotated[
        str,
        options.choice(
            "--method", "-m", among=("tsne", "pca", "umap"), help="Projection to two dimensions."
        ),
    ] = "tsne",
    points: Annotated[
        int,
        typer.Option(
            "--points", metavar="N", help="Maximum number of kernels on the page, drawn at random.",
            min=4,
        ),
    ] = 3000,
    perplexity: Annotated[
        float,
        typer.Option(
            "--perplexity", metavar="K", help="Number of neighbours for tsne and umap.", min=2
        ),
    ] = 30.0,
    layers: options.Layers = None,
    seed: options.Seed = 0,
    network: Trusted,
    output: Annotated[options.ResultOutput, replaced(output=_OUTPUT)],
    general: options.General,
) -> None:  # fmt: skip
    """Map all spatial kernels of networks.

    The page shows the kernels in one plane, coloured by network, depth, closest bank member, or
    order of the closest derivative of a Gaussian. The tables hold that fit for every kernel, and
    how often each member is used.
    """
    from filtersurgeon.checkpoint.atomic import check_ending
    from filtersurgeon.see.atlas import map_kernels
    from filtersurgeon.see.atlas_page import write_atlas, write_table

    path = output.output
    check_ending(path, _ENDINGS, f"an atlas ends in {', '.join(_ENDINGS)}", output.force)
    kind = Path(path).suffix if path else ""
    with (
        open_all(network, sources, general.quiet) as checkpoints,
        show.progress("mapping", general.quiet) as progress,
    ):
        found = map_kernels(
            checkpoints, bank=bank, method=method if kind == ".html" else None, points=points,
            layers=layers, seed=seed, perplexity=perplexity, progress=progress,
        )  # fmt: skip
    if path and kind == ".html":
        write_atlas(found, path)
    elif path and kind == ".csv":
        write_table(found, path)
    if kind == ".json":
        output.show(found.to_json(), lambda: _render(found))
    elif path is None or output.as_json is not None:
        show.result(found.to_json(), lambda: _render(found), as_json=output.as_json)
    else:
        kernels = sum(map(len, found.layers))
        show.note(f"mapped {kernels:,} kernels of {len(found.layers)} layers", general.quiet)


def _render(found: KernelAtlas) -> Iterator[Any]:
    from filtersurgeon.see.gradcam import short_name

    names = [short_name(name) for name in found.names]
    columns = [("network", "left"), ("size", "right"), ("order", "left"), ("kernels", "right"),
               ("sigma x", "right"), ("sigma y", "right"), ("residual", "right")]  # fmt: skip
    rows = [
        (
            names[row["network"]],
            "x".join(map(str, row["kernel_size"])),
            *("" if row[k] is None else row[k] for k in ("order", "kernels", *_FIT)),
        )
        for row in found.orders()
    ]
    yield show.table("closest derivatives of Gaussians, medians", columns, rows)
    if not found.labels:
        return
    columns = [("network", "left"), ("from layer", "left"), ("kernels", "right"),
               *((label, "right") for label in found.labels)]  # fmt: skip
    rows = [
        (names[part["network"]], part["from"], part["kernels"],
         *(f"{100 * count / part['kernels']:.0f} %" for count in part["members"]))
        for part in found.usage()
    ]  # fmt: skip
    yield show.table(f"usage of {found.bank} by depth", columns, rows)
