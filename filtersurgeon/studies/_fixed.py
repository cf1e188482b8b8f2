"""Networks with zeroed or removed kernels, frozen and trained: what studies of ExplainFix share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import wraps
from typing import Any, get_type_hints

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import DivergedError, OptionError
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.evaluating import evaluate
from filtersurgeon.learn.evaluation import Estimate, student_interval
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages, TrainingStart, tune
from filtersurgeon.pruning.report import PruneReport
from filtersurgeon.ranking.kernel_scores import kernel_scores
from filtersurgeon.ranking.method import takes_images
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    image_run,
    make_untrained,
    network_plan,
    open_for_worker,
    scoring_options,
    training_plan,
)
from filtersurgeon.transforms.prune import prune

STARTS = ("pretrained", "scratch")
_ALL = 10**9
"""More channels than any layer has: none is removed."""

PAPER = {
    "gradient": True,
    "saliency_images": 60,
    "pruned_lr": 2.0,
    "batch_size": 4,
    "epochs": 40,
    "lr": 1e-4,
    "repeats": 6,
}
"""The authors' settings: |gradient| of 15 minibatches of 4, and twice the learning rate (section
3.3, Eq. 4 with its footnote, Appendix C)."""

PRESETS = {"paper": PAPER, "paper-50": {**PAPER, "saliency_images": 200}}
"""The paper uses 15 or 50 minibatches of 4 images for the saliency."""


@dataclass(frozen=True)
class Way:
    """What happens to the spatial kernels before training.

    Attributes:
        handling: ``none``; ``zero``, the least important ones are zeroed; ``cut``, channels
            without kernels are removed as well.
        fill: what zeroed kernels that are left become: ``zero`` or ``fillzero``.
        frozen: spatial kernels do not train.
    """

    handling: str = "none"
    fill: str = "zero"
    frozen: bool = True


WAYS = {
    "learned": Way(frozen=False),
    "fixed": Way(),
    "zero": Way("zero"),
    "fillzero": Way("zero", "fillzero"),
    "cut": Way("cut"),
    "cut-fillzero": Way("cut", "fillzero"),
    "cut-learned": Way("cut", frozen=False),
    "cut-fillzero-learned": Way("cut", "fillzero", frozen=False),
}


@dataclass(frozen=True)
class Plan:
    """The parameters that these studies share; :func:`with_plan` makes them options of a study.

    Attributes:
        method: how kernels are scored: any ranking method that scores kernels.
        gradient: score by the magnitude of the gradient alone, without the weight, as the authors
            do for ChannelPrune; of ``saliency``.
        saliency_images: number of training images to score on, in minibatches of 4; 0 takes all.
        train: images to learn from; the training split of ``--data`` if left out.
        train_subset: learn from so many of them; 0 takes all.
        epochs: passes over the training images; the paper has 40.
        lr: learning rate of Adam; the paper has 1e-4.
        pruned_lr: factor of the learning rate where channels were removed; the paper doubles it.
        batch_size: images per step; the paper has 4; 0 takes ``--batch-size``.
        repeats: random seeds; the paper has 6, and 5 baselines in Fig. L.1b.
        preset: ``paper`` or ``paper-50``.
    """

    method: str = "saliency"
    gradient: bool = False
    saliency_images: int = 256
    train: str = ""
    train_subset: int = 0
    epochs: int = 3
    lr: float = 1e-3
    pruned_lr: float = 1.0
    batch_size: int = 0
    repeats: int = 3
    preset: str = ""

    def told(self) -> dict[str, Any]:
        """Give the parameters that a result states: all but the place of the images."""
        return {name: value for name, value in asdict(self).items() if name != "train"}

    def run(self, lab: Lab, runs: Sequence[tuple[str, str, float]]) -> list[dict[str, Any]]:
        """Train every run once for each random seed, and give its row, see :func:`collect_rows`.

        Args:
            lab: the network and the images.
            runs: start, way and share of kernels zeroed; 0 for ways that zero none.
        """
        jobs = self.jobs(lab, runs)
        results = run_jobs(train_way, list(jobs.values()), lab.jobs, lab.progress)
        return collect_rows(runs, dict(zip(jobs, results, strict=True)), self.repeats)

    def check(self) -> None:
        """Refuse numbers that cannot be; raises OptionError."""
        if self.repeats < 1 or self.epochs < 1:
            raise OptionError("repeats and epochs should be at least 1")
        if self.pruned_lr <= 0:
            raise OptionError(f"pruned_lr={self.pruned_lr:g} should be positive")

    def jobs(
        self, lab: Lab, runs: Iterable[tuple[str, str, float]]
    ) -> dict[tuple[str, str, float, int], dict[str, Any]]:
        """Plan every run once for each random seed.

        Args:
            lab: the network and the images.
            runs: start, way and share of kernels zeroed; 0 for ways that zero none.

        Returns:
            Start, way, share and repeat -> the arguments of :func:`train_way`.
        """
        self.check()
        options = scoring_options(self.method, self.gradient)
        lab = with_batches(lab, self.batch_size)
        shared = {
            **network_plan(lab),
            **training_plan(lab, self.train, self.train_subset, self.epochs, self.lr),
            "method": self.method,
            "options": options,
        }
        recipe = shared.pop("recipe")
        scored = {**shared["train"], "subset": self.saliency_images or None}
        looks = takes_images(self.method)
        jobs = {}
        for start, name, share in runs:
            way = WAYS[name]
            factor = self.pruned_lr if way.handling == "cut" else 1.0
            for repeat in range(self.repeats):
                jobs[start, name, share, repeat] = {
                    **shared,
                    "recipe": {**recipe, "lr": self.lr * factor},
                    "start": start,
                    "way": asdict(way),
                    "share": share,
                    "scored": scored if way.handling != "none" and looks else None,
                    "seed": lab.seed + repeat,
                }
        return jobs


def with_plan(study: Callable[..., StudyResult]) -> Callable[..., StudyResult]:
    """Make the fields of :class:`Plan` options of a study that takes a parameter ``plan``.

    Signature and docstring become those of a study that lists them itself.
    """
    own = inspect.signature(study, eval_str=True)
    kinds = get_type_hints(Plan)
    shared = {
        field.name: inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=kinds[field.name],
        )
        for field in fields(Plan)
    }

    @wraps(study)
    def run(lab: Lab, **options: Any) -> StudyResult:
        plan = Plan(**{name: options.pop(name) for name in shared if name in options})
        return study(lab, plan=plan, **options)

    kept = [each for each in own.parameters.values() if each.name != "plan"]
    found: Any = run
    found.__signature__ = own.replace(parameters=[*kept, *shared.values()])
    listed = inspect.cleandoc(Plan.__doc__ or "").partition("Attributes:\n")[2]
    found.__doc__ = inspect.cleandoc(study.__doc__ or "").replace("    plan: shared.", listed)
    return run


def with_batches(lab: Lab, batch_size: int) -> Lab:
    """Give a lab with another number of images per step; 0 leaves it as it is."""
    if not batch_size:
        return lab
    return replace(lab, evaluation=replace(lab.evaluation, batch_size=batch_size))


def train_way(
    network: Mapping[str, Any],
    start: str,
    way: Mapping[str, Any],
    share: float,
    method: str,
    options: Mapping[str, Any],
    scored: Mapping[str, Any] | None,
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    recipe: Mapping[str, Any],
    run: Mapping[str, Any],
    classes: int | None,
    seed: int,
) -> dict[str, Any]:
    """Zero, remove, freeze and train; runs in a worker.

    Returns:
        ``accuracy``: top-1 on the test images after every epoch, or None if training diverged;
        ``before``: the same before training, of a pretrained network for the same classes;
        ``parameters``: before and after; ``kernels``: zeroed ones, and all of them.
    """
    chosen = Way(**way)
    with open_for_worker(network) as checkpoint:
        begun = checkpoint if start == "pretrained" else make_untrained(checkpoint, seed)
        parameters = kernels = None
        if chosen.handling != "none":
            images = scored and {**scored, "seed": seed}
            begun, report = zero_or_cut(
                begun, network, chosen, share, method, options, images, seed
            )
            parameters = [report.before.parameters, report.after.parameters]
            kernels = list(report.zeroed)
        before = None
        if start == "pretrained" and classes is None:
            settings = EvaluationSettings(run["batch_size"], run["workers"])
            found = evaluate(begun, DataSpec(**test), settings, preprocess=network["preprocess"])
            before = found.accuracy
        freeze = "spatial" if chosen.frozen else "none"
        try:
            _, result = tune(
                begun,
                TrainingImages(DataSpec(**{**train, "seed": seed}), DataSpec(**test)),
                TrainingRecipe(**{**recipe, "freeze": freeze}),
                RunSettings(**{**run, "seed": seed}),
                start=TrainingStart(False, classes, network["preprocess"]),
            )
            accuracy = [row.accuracy for row in result.history]
        except DivergedError:
            accuracy = None
    return {
        "accuracy": accuracy, "before": before, "parameters": parameters, "kernels": kernels
    }  # fmt: skip


def zero_or_cut(
    begun: Checkpoint,
    network: Mapping[str, Any],
    way: Way,
    share: float,
    method: str,
    options: Mapping[str, Any],
    images: Mapping[str, Any] | None,
    seed: int,
) -> tuple[Checkpoint, PruneReport]:
    """Zero the least important spatial kernels, and remove channels where the way says so."""
    scores = kernel_scores(
        begun,
        method,
        data=image_run(images, network, EvaluationSettings(device="cpu")),
        options=options,
        layers=network["layers"] or None,
        seed=seed,
    )
    reports: list[PruneReport] = []
    made = prune(
        begun,
        sparsity=share,
        scores=scores,
        layers=network["layers"] or None,
        fill=way.fill,
        min_channels=1 if way.handling == "cut" else _ALL,
        seed=seed,
        observe=reports.append,
    )
    return made, reports[0]


def collect_rows(
    runs: Sequence[tuple[str, str, float]], found: Mapping[Any, Mapping[str, Any]], repeats: int
) -> list[dict[str, Any]]:
    """Give a row for every start, way and share: estimates over the repeats.

    Args:
        runs: start, way and share of kernels zeroed.
        found: these and a repeat -> what :func:`train_way` found.
        repeats: random seeds.

    Returns:
        Rows with ``accuracy`` after the last epoch, ``difference`` from ``learned`` of the same
        start, paired by seed, ``before`` any training, ``left`` of the parameters, and the ``runs``
        themselves. Estimates are None where there is nothing to estimate.
    """
    rows = []
    for start, way, share in runs:
        keys = [(start, way, share, repeat) for repeat in range(repeats)]
        results = [found[key] for key in keys]
        base = [found.get((start, "learned", 0.0, repeat)) for repeat in range(repeats)]
        last = [x["accuracy"][-1] for x in results if x["accuracy"]]
        gaps = [
            x["accuracy"][-1] - other["accuracy"][-1]
            for x, other in zip(results, base, strict=True)
            if way != "learned" and other and x["accuracy"] and other["accuracy"]
        ]
        before = [x["before"] for x in results if x["before"] is not None]
        left = [x["parameters"][1] / x["parameters"][0] for x in results if x["parameters"]]
        rows.append(
            {
                "start": start,
                "way": way,
                "zeroed": share,
                "before": student_interval(before) if before else None,
                "accuracy": student_interval(last) if last else None,
                "difference": student_interval(gaps) if gaps else None,
                "left": sum(left) / len(left) if left else 1.0,
                "runs": [x["accuracy"] for x in results],
            }
        )
    return rows


def rows_as_json(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give rows as JSON, estimates as their mean and interval."""
    return [
        {k: v._asdict() if isinstance(v, Estimate) else v for k, v in row.items()} for row in rows
    ]


def make_remarks(rows: Iterable[Mapping[str, Any]], given: Mapping[str, Any]) -> list[str]:
    """Say which rows differ from ``learned``, what diverged, and what the paper does longer."""

    def name(row: Mapping[str, Any]) -> str:
        at = f" at {100 * row['zeroed']:g} %" if row["zeroed"] else ""
        return f"{row['way']}{at} ({row['start']})"

    remarks = compare_with_learned(rows, name)
    less = [
        f"{option} {given[option]} instead of {PAPER[option]}"
        for option in ("epochs", "repeats")
        if given[option] < PAPER[option]
    ]
    return [*remarks, *([f"shorter than the paper's runs: {', '.join(less)}"] if less else [])]


def compare_with_learned(
    rows: Iterable[Mapping[str, Any]], name: Callable[[Mapping[str, Any]], str]
) -> list[str]:
    """Say which rows differ from ``learned``, and how many runs diverged.

    Args:
        rows: with their ``difference`` from ``learned`` and their ``runs``.
        name: gives a row's name.
    """
    remarks, diverged = [], 0
    for row in rows:
        diverged += sum(run is None for run in row["runs"])
        gap: Estimate | None = row["difference"]
        if gap is not None and not gap.low <= 0 <= gap.high:
            side = "above" if gap.low > 0 else "below"
            remarks.append(f"{name(row)} is {side} learned: {show_difference(gap)} points")
    if diverged:
        remarks.append(f"{diverged} runs diverged and are left out")
    return remarks


def show_difference(found: Estimate | None) -> str:
    """Write a difference in percentage points, with its sign."""
    if found is None:
        return ""
    return f"{'+' if found.mean >= 0 else ''}{found}"
