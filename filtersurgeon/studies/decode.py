"""How well do decoded filters predict the units of a network? Compare them on images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.evaluation import student_interval
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages, TrainingStart, tune
from filtersurgeon.registry import STUDIES
from filtersurgeon.see.decoding import Decoded, DecodeSettings
from filtersurgeon.see.decoding import decode as decode_units
from filtersurgeon.see.linear_rules import UPSAMPLINGS
from filtersurgeon.studies._decode_pictures import (
    FIGURES,
    draw_classes,
    draw_responses,
    find_class_responses,
    response_rows,
)
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    network_plan,
    open_for_worker,
    training_images,
    words,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAPER_SHAPES = ((20, 1, 5, 5), (50, 20, 5, 5), (500, 50, 4, 4), (10, 500, 1, 1))
_PAPER: Mapping[str, Sequence[tuple[float, float] | None]] = {
    "bicubic": (None, (0.002, 0.001), (0.012, 0.005), (0.078, 0.056)),
    "nearest": (None, (0.0022, 0.001), (0.012, 0.005), (0.077, 0.055)),
    "bilinear": (None, (0.003, 0.001), (0.013, 0.0055), (0.081, 0.057)),
}
"""Table 1: mean and standard deviation by upsampling, for the four layers with weights."""

Rows = Sequence[dict[str, Any]]


def decode(
    lab: Lab,
    *,
    upsample: str = "bicubic,nearest,bilinear",
    units: str = "all",
    seeds: int = 0,
    train: str = "",
    train_subset: int = 0,
    epochs: int = 3,
    lr: float = 0.01,
    figure: str = "errors",
    shown: int = 3,
) -> StudyResult:
    """Measure the error of Eq. 3 for each layer and upsampling, and draw Figures 1 and 3.

    The error of an image is the mean squared difference between the responses of the units and
    those of their decoded filters, each scaled to 0..1 over all units and positions. ``seeds``
    also trains the architecture from scratch, by SGD with Nesterov momentum 0.9 and weight decay
    5e-4, and gives the spread over these networks.
    Source: Rafegas and Vanrell, *Understanding learned CNN features through Filter Decoding with
    Substitution*, 2015, Eq. 3, Table 1, Figures 1 and 3. Its values are shown beside those of a
    network of its shapes (20, 50, 500 and 10 filters).

    Args:
        lab: the network and the images; ``--layers`` may name layers, which are else all
            convolutions and linear layers.
        upsample: ``nearest``, ``bilinear`` and ``bicubic``; figures take the first.
        units: which units of each layer, such as ``0,3,8-11``, or ``all``.
        seeds: so many networks trained from scratch, besides the one that is given.
        train: images to learn from; the training split of ``--data`` if left out.
        train_subset: learn from so many of them; 0 takes all.
        epochs: passes over them.
        lr: greatest learning rate.
        figure: what the picture shows. ``errors``; ``classes``: the class filters and the images
            with the highest response to each (Fig. 1); ``responses``: maps of the units beside
            those of their filters (Fig. 3).
        shown: class of the image in ``figure=responses``.

    Returns:
        By layer and upsampling: the mean error, its standard deviation over images and the 95 %
        interval of the mean; the mean correlation of the responses; the mean error of the networks
        trained from scratch with Student's 95 % interval; and the paper's values. With
        ``figure=classes`` also the responses of Fig. 1.
    """
    modes = words(upsample, UPSAMPLINGS, "upsample")
    if figure not in FIGURES:
        raise OptionError(f"figure={figure!r} is none of {', '.join(FIGURES)}")
    if min(seeds, train_subset) < 0 or epochs < 1:
        raise OptionError("seeds and train_subset should not be negative, epochs at least 1")
    plan = {
        **network_plan(lab), "upsample": modes, "units": units, "test": asdict(lab.images()),
        "evaluation": asdict(lab.evaluation),
    }  # fmt: skip
    jobs: list[dict[str, Any]] = [{**plan, "train": None, "seed": lab.seed}]
    if seeds:
        recipe = TrainingRecipe(optimizer="sgd", lr=lr, weight_decay=5e-4)
        run = RunSettings(epochs, lab.evaluation.batch_size, device=lab.evaluation.device)
        learnt = {"images": training_images(lab, train, train_subset), "recipe": asdict(recipe),
                  "run": asdict(run)}  # fmt: skip
        jobs += [{**plan, "train": learnt, "seed": lab.seed + seed} for seed in range(seeds)]
    first, *others = (x["rows"] for x in run_jobs(measure_errors, jobs, lab.jobs, lab.progress))
    given = {
        "upsample": upsample, "units": units, "seeds": seeds, "train_subset": train_subset,
        "epochs": epochs, "lr": lr, "figure": figure, "shown": shown,
    }  # fmt: skip
    rows = _with_paper(_spread(first, others), lab.network())
    defaults = {k: p.default for k, p in STUDIES.options("decode").items()}
    draw: Callable[[Figure], None] = partial(_draw, rows=rows)
    findings: dict[str, Any] = {"rows": rows}
    if figure == "classes":
        answers = find_class_responses(lab, modes[0])
        findings["classes"] = answers.to_json()
        draw = partial(draw_classes, found=answers)
    elif figure == "responses":
        draw = partial(draw_responses, rows=list(response_rows(lab, modes[0], shown)))
    return StudyResult(
        "decode",
        {k: v for k, v in given.items() if v != defaults[k]},
        findings,
        [_table(rows)],
        list(_remarks(rows)),
        draw,
    )


def measure_errors(
    network: Mapping[str, Any],
    upsample: Sequence[str],
    units: str,
    test: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    train: Mapping[str, Any] | None,
    seed: int,
) -> dict[str, Any]:
    """Decode one network, trained from scratch first if so wished; runs in a worker.

    Returns:
        ``rows``: what was measured, by upsampling and layer.
    """
    checkpoint = open_for_worker(network)
    preprocess, how = network["preprocess"], EvaluationSettings(**evaluation)
    if train is not None:
        checkpoint, _ = tune(
            checkpoint,
            TrainingImages(DataSpec(**train["images"])),
            TrainingRecipe(**train["recipe"]),
            RunSettings(**{**train["run"], "seed": seed}),
            start=TrainingStart(True, preprocess=preprocess),
        )
    layers = network["layers"] or ["*"]
    rows: list[dict[str, Any]] = []
    for mode in upsample:
        settings = DecodeSettings(layers, units, mode, how.device, how.batch_size)
        found = decode_units(checkpoint, settings, data=DataSpec(**test), preprocess=preprocess)
        rows += [_row(layer, mode) for layer in found]
    return {"rows": rows}


def _row(layer: Decoded, upsample: str) -> dict[str, Any]:
    fit = layer.fit
    assert fit is not None  # there are images
    return {
        "layer": layer.layer, "upsample": upsample, "units": len(layer.units),
        "error": fit.error, "deviation": fit.error_deviation, "images": fit.n_images,
        "correlation": fit.correlation, "accuracy": fit.accuracy,
    }  # fmt: skip


def _spread(first: Rows, others: Sequence[Rows]) -> list[dict[str, Any]]:
    """Add to each row the interval of its mean, and what the networks from scratch gave."""
    rows = []
    for place, row in enumerate(first):
        half = 1.96 * row["deviation"] / row["images"] ** 0.5
        errors = [other[place]["error"] for other in others]
        over = list(student_interval(errors)) if errors else None
        rows.append({**row, "interval": [row["error"] - half, row["error"] + half],
                     "from_scratch": over, "errors_from_scratch": errors})  # fmt: skip
    return rows


def _with_paper(rows: Rows, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Add the values of Table 1, where the network has the shapes of the paper's."""
    shapes = {
        name.removesuffix(".weight"): tuple(checkpoint[name].shape)
        for name in checkpoint
        if len(checkpoint[name].shape) > 1
    }
    known = tuple(shapes.values()) == _PAPER_SHAPES
    places = {name: place for place, name in enumerate(shapes)} if known else {}
    return [
        {**row, "paper": _PAPER[row["upsample"]][places[row["layer"]]] if places else None}
        for row in rows
    ]


def _table(rows: Rows) -> Table:
    columns = [("layer", "left"), ("units", "right"), ("upsampling", "left"),
               ("error", "right"), ("+- over images", "right"), ("correlation", "right"),
               ("from scratch (95 %)", "right"), ("paper", "right")]  # fmt: skip
    cells = [
        (
            row["layer"], row["units"], row["upsample"], f"{row['error']:.4f}",
            f"{row['deviation']:.4f}", f"{row['correlation']:.3f}", _interval(row["from_scratch"]),
            "" if row["paper"] is None else "{:.4g} +-{:.4g}".format(*row["paper"]),
        )
        for row in rows
    ]  # fmt: skip
    return Table(f"error of decoded filters on {rows[0]['images']:,} images", columns, cells)


def _interval(found: Sequence[float] | None) -> str:
    return "" if found is None else "{:.4f} ({:.4f} to {:.4f})".format(*found)


def _remarks(rows: Rows) -> Iterator[str]:
    for row in rows:
        if row["paper"] is not None:
            mean, deviation = row["paper"]
            gap = row["error"] - mean
            where = "within" if abs(gap) <= deviation else "outside of"
            yield (
                f"{row['layer']}, {row['upsample']}: {gap:+.4f} from the paper's {mean:g}, {where} "
                f"its standard deviation of {deviation:g} over images"
            )


def _draw(figure: Figure, rows: Rows) -> None:
    """Draw the error of each layer, beside the paper's."""
    axes = figure.subplots()
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    modes = list(dict.fromkeys(row["upsample"] for row in rows))
    for number, mode in enumerate(modes):
        line = [row for row in rows if row["upsample"] == mode]
        shift = 0.12 * (number - (len(modes) - 1) / 2)
        places = np.array([layers.index(row["layer"]) for row in line]) + shift
        bars = [row["deviation"] for row in line]
        axes.errorbar(places, [row["error"] for row in line], bars, fmt="o", markersize=4,
                      capsize=2.5, label=mode, color=f"C{number}")  # fmt: skip
        known = [(x, row["paper"]) for x, row in zip(places, line, strict=True) if row["paper"]]
        if known:
            axes.errorbar([x + 0.05 for x, _ in known], [p[0] for _, p in known],
                          [p[1] for _, p in known], fmt="x", markersize=5, capsize=2.5,
                          color=f"C{number}", alpha=0.6,
                          label=f"{mode}, paper")  # fmt: skip
    axes.set_xticks(range(len(layers)), layers)
    axes.set(ylabel="error (Eq. 3), mean and\nstandard deviation over images", ylim=(0, None))
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=8)
