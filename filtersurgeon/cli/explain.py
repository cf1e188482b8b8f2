from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.data.image_run import ImageRun
    from filtersurgeon.explain.explanation import Explanation
    from filtersurgeon.ranking.kernel_scores import KernelScores

PAIR = "filtersurgeon.explanation-pair/1"


def explain(
    source: options.Input = "-",
    other: Annotated[
        str | None,
        typer.Argument(metavar="[OTHER]", show_default=False, help="A network to put beside it."),
    ] = None,
    basis: Annotated[
        str, typer.Option("--basis", help="dct, haar, or pca (of the network's own kernels).")
    ] = "dct",
    picture: Annotated[
        str | None,
        typer.Option("--picture", metavar="FILE", help="Draw the heat map (PNG, SVG, PDF)."),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            "--scale", help="What colours mean: energy, or share of the layer's own energy."
        ),
    ] = "energy",
    sheet: Annotated[
        str | None,
        typer.Option(
            "--sheet",
            metavar="SIZE",
            help="Draw the basis filters of this size (3, 5x5) as --picture instead.",
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option("--expect", help="Exit with 1 if the spectra are not flat, or low-pass."),
    ] = None,
    saliency: Annotated[
        str | None,
        typer.Option(
            "--saliency",
            metavar="FILE",
            help="Weigh kernels by these scores; with --data, keep the saliency here, and go on "
            "from it.",
        ),
    ] = None,
    saliency_b: Annotated[
        str | None, typer.Option("--saliency-b", metavar="FILE", help="Those of OTHER.")
    ] = None,
    layers: options.Layers = None,
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    split: options.FitSplit = None,
    subset: options.Subset = None,
    seed: options.Seed = 0,
    skip_bad: options.SkipBad = False,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", help="Images per minibatch.", min=1)
    ] = 4,
    workers: options.Workers = 0,
    device: options.Device = "cpu",
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "-p", metavar="NAME=VALUE", help="Of the saliency: gradient, rescale (true or false)."
        ),
    ] = None,
    arch: options.Arch = None,
    factory: options.Factory = None,
    arch_b: Annotated[
        str | None, typer.Option("--arch-b", metavar="NAME", help="OTHER's, if it is not INPUT's.")
    ] = None,
    factory_b: Annotated[
        str | None,
        typer.Option("--factory-b", metavar="MODULE:FUNCTION", help="OTHER's, if not INPUT's."),
    ] = None,
    preprocess: options.Preprocess = None,
    as_json: options.Json = None,
    output: options.Results = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Show how the filters of every layer are steered (ExplainSteer).

    For every layer, how much energy each basis filter, from low to high frequency, contributes to
    its kernels. Kernels count alike, or by their saliency on labelled images (--data), which runs
    the network.
    """
    from filtersurgeon.explain.expectation import check_expectation
    from filtersurgeon.plots.heat_map import check_scale
    from filtersurgeon.plots.pictures import check_picture_path

    show.check_json_path(output, force)
    check_picture_path(picture, force)
    check_scale(scale)
    if expect is not None:
        check_expectation(expect, "scores" if data or saliency or saliency_b else "uniform")
    if sheet is not None:
        _draw_sheet(sheet, basis, picture, None if source == "-" else source)
        return
    run = options.image_run(
        data=data, labels=labels, root=root, split=split, subset=subset, seed=seed,
        skip_bad=skip_bad, preprocess=preprocess, workers=workers, device=device, quiet=quiet,
    )  # fmt: skip
    own = {"batch_size": batch_size, **options.key_values(parameters)}
    if run is None and own != {"batch_size": 4}:
        raise OptionError("-p and --batch-size are about the saliency, which needs --data")
    if other is None and (saliency_b or arch_b or factory_b):
        raise OptionError("--saliency-b, --arch-b and --factory-b are about OTHER; name it")
    architectures = [options.architecture(arch, factory)]
    architectures.append(options.architecture(arch_b, factory_b, "-b") or architectures[0])
    named = [(source, architectures[0], saliency)]
    named += [(other, architectures[1], saliency_b)] if other is not None else []
    found = []
    with ExitStack() as stack:
        for name, architecture, file in named:
            checkpoint = stack.enter_context(
                opened(name, arch=architecture, allow_pickle=allow_pickle, quiet=quiet)
            )
            scores = _scores(checkpoint, file, run, own, layers, seed, quiet)
            found.append(_explained(checkpoint, basis, scores, layers, quiet))
    _deliver(found, picture, scale, as_json, output)
    _check(found, expect)


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


def _explained(
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
    from filtersurgeon.plots.basis_sheet import draw_basis

    if picture is None:
        raise OptionError("--sheet is a picture: name its file with --picture")
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
    picture: str | None,
    scale: str,
    as_json: bool | None,
    output: str | None,
) -> None:
    from filtersurgeon.explain.explanation import distances
    from filtersurgeon.plots.heat_map import draw_explanation

    apart = distances(*found) if len(found) == 2 else {}
    if picture:
        draw_explanation(found, picture, scale=scale)
    content = found[0].to_json()
    if len(found) == 2:
        content = {"schema": PAIR, "first": content, "second": found[1].to_json(),
                   "distances": apart}  # fmt: skip
    show.result(content, lambda: _render(found, apart), as_json=as_json, output=output)


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
        yield "0: the two layers are steered alike; 1: they share no basis filter"


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
    weights = "kernels alike" if explanation.weights == "uniform" else explanation.weights
    title = f"{Path(explanation.name).stem}: {explanation.basis} spectra, {weights}"
    return show.table(title, columns, rows)


def _check(found: Sequence[Explanation], expect: str | None) -> None:
    if expect is None:
        return
    from filtersurgeon.explain.expectation import unmet

    reasons = [text for explanation in found for text in unmet(explanation, expect)]
    for text in reasons:
        show.note(text)
    if reasons:
        raise typer.Exit(1)
