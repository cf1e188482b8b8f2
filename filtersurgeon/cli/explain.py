from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, changed, replaced, verb
from filtersurgeon.cli.running import Computation, FitData
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.data.data import ImageRun
    from filtersurgeon.explain.explanation import Explanation
    from filtersurgeon.ranking.kernel_scores import KernelScores

PAIR = "filtersurgeon.explanation-pair/1"
_MINIBATCH = 4
"""Images per minibatch of the saliency, which are part of its definition."""


@dataclass(frozen=True)
class Spectra(Bundle):
    """Which spectra, of what, and how they are shown."""

    basis: Annotated[
        str,
        options.choice(
            "--basis",
            among=("dct", "haar", "pca"),
            help="Basis of the spectra; pca is computed from the network's own kernels.",
        ),
    ] = "dct"
    scale: Annotated[
        str,
        options.choice(
            "--scale",
            among=("energy", "share"),
            help="Colour scale: energy, or share of the layer's own energy.",
        ),
    ] = "energy"
    sheet: Annotated[
        str | None,
        typer.Option(
            "--sheet",
            metavar="SIZE",
            help="Draw the basis filters of this size (3, 5x5) instead.",
        ),
    ] = None
    expect: Annotated[
        str | None,
        options.choice(
            "--expect",
            among=("flat", "low-pass"),
            help="Exit with 1 if the spectra are not flat, or not low-pass.",
        ),
    ] = None
    saliency: Annotated[
        str | None,
        typer.Option(
            "--saliency",
            metavar="FILE",
            help="Weight kernels by the scores in this file. With --data, write the saliency to "
            "it, or resume from it.",
        ),
    ] = None
    saliency_against: Annotated[
        str | None,
        typer.Option(
            "--saliency-against",
            metavar="FILE",
            help="As --saliency, for the network of --against.",
        ),
    ] = None
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            metavar="NAME=VALUE",
            help="Parameter of the saliency: gradient or rescale (true or false).",
        ),
    ] = None
    layers: options.Layers = None


@verb("fsurgeon explain m.safetensors -o spectra.png")
def explain(
    source: options.Input = "-",
    other: Annotated[
        str | None,
        typer.Argument(metavar="[OTHER]", help="As --against.", hidden=True),
    ] = None,
    *,
    against: Annotated[str | None, options.against("Second network, to compare.")] = None,
    spectra: Spectra,
    seed: options.Seed = 0,
    data: FitData,
    computation: Annotated[Computation, changed(batch_size=_MINIBATCH)],
    network: options.Network,
    other_network: options.OtherNetwork,
    output: Annotated[
        options.DrawnOutput,
        replaced(picture=options.picture("Draw the heat map (PNG, SVG, PDF).")),
    ],
    general: options.General,
) -> None:  # fmt: skip
    """Show the frequency spectra of filters, layer by layer (ExplainSteer).

    For every layer: how much energy each basis filter, from low to high frequency, contributes to
    its kernels. Kernels have equal weights, or are weighted by their saliency on labelled images
    (--data), which runs the network.
    """
    from filtersurgeon.explain.explanation import check_expectation
    from filtersurgeon.plots.heat_map import check_scale

    output.check()
    check_scale(spectra.scale)
    if spectra.expect is not None:
        check_expectation(
            spectra.expect,
            "scores" if data.data or spectra.saliency or spectra.saliency_against else "uniform",
        )
    if spectra.sheet is not None:
        _draw_sheet(spectra.sheet, spectra.basis, output.drawn, None if source == "-" else source)
        return
    quiet = general.quiet
    run = data.run(seed, computation, quiet)
    own = {"batch_size": computation.batch_size, **options.key_values(spectra.parameters)}
    if run is None and own != {"batch_size": _MINIBATCH}:
        raise OptionError("-p and --batch-size set the saliency, which needs --data")
    if other is not None and against is not None:
        raise OptionError("two networks to compare with; leave one out")
    other = against if other is None else other
    for option, value in (
        ("--saliency-against", spectra.saliency_against),
        ("--arch-against", other_network.arch_against),
        ("--factory-against", other_network.factory_against),
    ):
        if other is None and value is not None:
            raise OptionError(f"{option} needs --against")
    named = [(source, network, spectra.saliency)]
    if other is not None:
        named.append((other, other_network.beside(network), spectra.saliency_against))
    found = []
    with ExitStack() as stack:
        for name, known, file in named:
            checkpoint = stack.enter_context(known.opened(name, quiet))
            scores = _scores(checkpoint, file, run, own, spectra.layers, seed, quiet)
            found.append(_explain(checkpoint, spectra.basis, scores, spectra.layers, quiet))
    _deliver(found, spectra.scale, output)
    _check(found, spectra.expect)


def _scores(
    checkpoint: Checkpoint,
    file: str | None,
    run: ImageRun | None,
    own: dict[str, Any],
    layers: list[str] | None,
    seed: int,
    quiet: bool,
) -> KernelScores | None:
    if run is None and file is None:
        return None
    from filtersurgeon.ranking.kernel_scores import read_kernel_scores

    if run is None:
        assert file is not None
        return read_kernel_scores(file)
    from filtersurgeon.ranking.kernel_scores import kernel_scores
    from filtersurgeon.registry import RANKING_METHODS

    bound = RANKING_METHODS.bind("saliency", own, reserved=("seed",))
    with show.progress("saliency", quiet) as progress:
        return kernel_scores(
            checkpoint, data=run, options=bound, layers=layers, seed=seed, file=file,
            progress=progress,
        )  # fmt: skip


def _explain(
    checkpoint: Checkpoint,
    basis: str,
    scores: KernelScores | None,
    layers: list[str] | None,
    quiet: bool,
) -> Explanation:
    from filtersurgeon.explain.explanation import explain as explain_checkpoint

    with show.progress("explaining", quiet) as progress:
        found = explain_checkpoint(
            checkpoint, basis=basis, scores=scores, layers=layers, progress=progress
        )
    for text in found.notes:
        show.note(f"note: {text}", quiet)
    return found


def _draw_sheet(sheet: str, basis: str, picture: str | None, source: str | None) -> None:
    from filtersurgeon.explain.explanation import find_basis
    from filtersurgeon.plots.heat_map import draw_basis

    if picture is None:
        raise OptionError("--sheet draws a picture; pass its file with -o FILE.png")
    parts = sheet.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise OptionError(f"--sheet {sheet} should be a kernel size, such as 3 or 3x5")
    size = int(parts[0]), int(parts[-1])
    if source is None or basis != "pca":
        draw_basis(find_basis(basis, size), picture)
        return
    with opened(source) as checkpoint:
        draw_basis(find_basis(basis, size, checkpoint), picture)


def _deliver(
    found: Sequence[Explanation],
    scale: str,
    output: options.DrawnOutput,
) -> None:
    from filtersurgeon.explain.explanation import distances
    from filtersurgeon.plots.heat_map import draw_explanation

    apart = distances(*found) if len(found) == 2 else {}
    if output.drawn:
        draw_explanation(found, output.drawn, scale=scale)
    content = found[0].to_json()
    if len(found) == 2:
        content = {"schema": PAIR, "first": content, "second": found[1].to_json(),
                   "distances": apart}  # fmt: skip
    output.show(content, lambda: _render(found, apart))


def _render(found: Sequence[Explanation], apart: dict[str, float]) -> Iterator[Any]:
    for explanation in found:
        yield _table(explanation)
        for part in explanation.network:
            size = "x".join(map(str, part.basis.size))
            yield (
                f"{size}: {100 * part.low_share:.1f} % of the energy in low frequencies, "
                f"{part.n_kernels:,} kernels"
            )
        silent = explanation.silent
        yield f"almost no energy: {', '.join(silent) if silent else 'no layer'}"
    if apart:
        columns = [("layer", "left"), ("distance", "right")]
        yield show.table("distances", columns, list(apart.items()))
        yield "0: the two layers have the same spectrum; 1: they share no basis filter"


def _table(explanation: Explanation) -> Any:
    columns = [("layer", "left"), ("size", "right"), ("kernels", "right"), ("energy", "right"),
               ("low %", "right"), ("strongest", "left")]  # fmt: skip
    rows = [
        (
            layer.name,
            "x".join(map(str, layer.basis.size)),
            layer.n_kernels,
            f"{layer.energy:.4g}",
            f"{100 * layer.low_share:.1f}",
            " ".join(str(at) for at in (-layer.e2).argsort(kind="stable")[:3]),
        )
        for layer in explanation.layers
    ]
    weights = "uniform kernel weights" if explanation.weights == "uniform" else explanation.weights
    title = f"{Path(explanation.name).stem}: {explanation.basis} spectra, {weights}"
    return show.table(title, columns, rows)


def _check(found: Sequence[Explanation], expect: str | None) -> None:
    if expect is None:
        return
    from filtersurgeon.explain.explanation import unmet

    reasons = [text for explanation in found for text in unmet(explanation, expect)]
    for text in reasons:
        show.note(text)
    if reasons:
        raise typer.Exit(1)
