"""Searching the members of a bank that a network needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.banks import FilterBank, load_bank
from filtersurgeon.banks.closest import unit_bank
from filtersurgeon.banks.collection import collect_kernels
from filtersurgeon.banks.degenerate import degenerate_members
from filtersurgeon.banks.elimination import Elimination, elbow
from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.filters import as_globs, find_layers, select_layers
from filtersurgeon.learn.data import DataSpec
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.jobs import JobSettings, run_jobs
from filtersurgeon.learn.trial import count_wrong

CRITERIA = ("accuracy", "error")
SCHEMA = "filtersurgeon.bank-search/1"
Progress = Callable[[int, int], None]
_EVALUATION, _ONE_JOB = EvaluationSettings(batch_size=16), JobSettings()


@dataclass(frozen=True)
class SearchData:
    """What a search by accuracy works with.

    Attributes:
        images: which images.
        source: the file or name of the network, which workers open for themselves.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        evaluation: batch size, device and workers.
        jobs: how many candidates at a time, where, and where finished ones are kept.
    """

    images: DataSpec
    source: str
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    evaluation: EvaluationSettings = _EVALUATION
    jobs: JobSettings = _ONE_JOB


@dataclass(frozen=True)
class SearchStep:
    """The bank at one size.

    Attributes:
        size: number of members.
        removed: the label of the member removed last; None at first.
        relative_error: ``||new - old|| / ||old||`` over all kernels.
        wrong: number of wrong images, or None without images.
    """

    size: int
    removed: str | None
    relative_error: float
    wrong: int | None


@dataclass(frozen=True)
class BankSearch:
    """The way from a bank to few members.

    Attributes:
        criterion: ``accuracy`` or ``error``.
        start: the bank at the beginning.
        steps: from the whole bank to the last size.
        images: number of images; 0 without.
        original_wrong: wrong images of the network before anything was replaced, or None.
    """

    criterion: str
    start: FilterBank
    steps: tuple[SearchStep, ...]
    images: int = 0
    original_wrong: int | None = None

    @property
    def bank(self) -> FilterBank:
        """The members left at the end."""
        return self.at(self.steps[-1].size)

    @property
    def elbow(self) -> int:
        """The size at which the curve turns: farthest from the line between its ends."""
        return self.steps[elbow([self.value(step) for step in self.steps])].size

    def value(self, step: SearchStep) -> float:
        """Give what the criterion sees: accuracy in 0..1, or relative error."""
        return step.relative_error if step.wrong is None else 1 - step.wrong / self.images

    def at(self, size: int) -> FilterBank:
        """Give the bank at a size that the search went through; raises OptionError at others."""
        if size not in [step.size for step in self.steps]:
            raise OptionError(f"the search went from {self.steps[0].size} to {self.steps[-1].size}")
        gone = {step.removed for step in self.steps if step.size >= size}
        kept = [k for k, label in enumerate(self.start.labels) if label not in gone]
        labels = tuple(self.start.labels[k] for k in kept)
        text = f"{size} of {self.start.name}, by greedy elimination ({self.criterion})"
        return FilterBank(f"{self.start.name}-{size}", self.start.kernels[kept], labels, text)

    def to_json(self) -> dict[str, Any]:
        """Give the search in its JSON schema, ``filtersurgeon.bank-search/1``."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "criterion": self.criterion,
            "bank": self.start.name,
            "elbow": self.elbow,
            "members": list(self.bank.labels),
        }
        if self.original_wrong is not None:
            content |= {
                "images": self.images,
                "original_accuracy": 1 - self.original_wrong / self.images,
            }
        steps = []
        for step in self.steps:
            row = asdict(step)
            if step.wrong is not None:
                row["accuracy"] = self.value(step)
            steps.append({k: v for k, v in row.items() if k != "wrong" or v is not None})
        return {**content, "steps": steps}


def search_bank(
    checkpoint: Checkpoint,
    bank: str | FilterBank,
    data: SearchData | None = None,
    *,
    to: int = 1,
    criterion: str = "accuracy",
    layers: Iterable[str] | None = None,
    all_spatial: bool = False,
    size: int | None = None,
    plain: bool = False,
    progress: Progress | None = None,
) -> BankSearch:
    """Remove the members of a bank one by one, each time the one that is missed least.

    By accuracy: every member left is tried; the one goes without which the fewest images are wrong,
    of equals the one whose removal costs the least squared error. A candidate is given up as soon
    as it cannot be the one, images run only from the first layer on that changed, and only kernels
    that used the candidate are assigned anew; none of this changes the path.
    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, section 3.1.

    Args:
        checkpoint: the network.
        bank: a built-in bank's name, a bank file, or a bank.
        data: images, where the criterion is accuracy.
        to: the last size.
        criterion: ``accuracy``, or ``error``, the squared error of all kernels, which needs no
            images.
        layers: globs; None takes every depthwise layer of the bank's kernel size.
        all_spatial: the kernels of standard convolutions too.
        size: side of the kernels, for a built-in bank and a network of several.
        plain: go the same path the slow way: for every candidate, replace all kernels, build the
            network and evaluate it on all images.
        progress: told candidates done and candidates in all.

    Raises:
        LayerError: no kernels of the bank's size; a member that is constant or repeats another.
        OptionError: no images though the criterion needs them; more members asked for than there
            are; unknown names.
    """
    if criterion not in CRITERIA:
        raise OptionError(f"no criterion {criterion!r}{near_misses(criterion, CRITERIA)}")
    if criterion == "accuracy" and data is None:
        raise OptionError(
            "a search by accuracy needs images: name them with --data, or use --criterion error"
        )
    if criterion == "error" and data is not None:
        raise OptionError("a search by error looks at no images; leave out --data")
    start = _start(checkpoint, bank, to, layers, all_spatial, size)
    names, kernels = _kernels(checkpoint, start, layers, all_spatial)
    elimination = Elimination(kernels, unit_bank(start.kernels.reshape(len(start), -1)))
    if data is None:
        steps = _by_error(elimination, start, to, plain, kernels, progress)
        return BankSearch(criterion, start, tuple(steps))
    if data.source == "-":
        raise OptionError("a search by accuracy needs a network that workers can open: name INPUT")
    judge = _Judge(_bench(checkpoint, start, names, data, plain), data.jobs)
    return judge.search(elimination, start, to, progress)


def _start(
    checkpoint: Checkpoint,
    bank: str | FilterBank,
    to: int,
    layers: Iterable[str] | None,
    all_spatial: bool,
    size: int | None,
) -> FilterBank:
    source = load_bank(bank)
    wanted = source.size or ((size, size) if size else None)
    if size is not None and wanted != (size, size):
        raise OptionError(f"bank {source.name} has no kernels of --size {size}")
    collected = collect_kernels([checkpoint], wanted, layers, all_spatial)
    start = source.at(collected.size)
    if start is None:
        raise LayerError(f"bank {source.name} has no kernels of {collected.size}")
    if not 1 <= to < len(start):
        raise OptionError(
            f"--to {to}: the search begins with the {len(start)} members of {start.name} "
            "and ends with fewer, at least 1"
        )
    wrong = degenerate_members(start)
    if wrong:
        raise LayerError(
            f"bank {start.name}: {wrong[0]}, so a search would tell nothing of it; "
            "take it out of the bank"
        )
    return start


def _kernels(
    checkpoint: Checkpoint,
    start: FilterBank,
    layers: Iterable[str] | None,
    all_spatial: bool,
) -> tuple[list[str], np.ndarray]:
    chosen = [
        layer
        for layer in select_layers([x for x in find_layers(checkpoint) if x.is_spatial],
                                   as_globs(layers))
        if layer.kernel_size == start.kernel_size and (all_spatial or layer.kind == "depthwise")
    ]  # fmt: skip
    rows = [layer.matrix().reshape(layer.n_kernels, -1) for layer in chosen]
    return [layer.name for layer in chosen], np.concatenate(rows)


def _by_error(
    elimination: Elimination,
    start: FilterBank,
    to: int,
    plain: bool,
    kernels: np.ndarray,
    progress: Progress | None,
) -> Iterator[SearchStep]:
    total = sum(range(to + 1, len(start) + 1))
    yield SearchStep(len(start), None, elimination.relative_error, None)
    done = 0
    while len(elimination.left) > to:
        costs = _plain_costs(elimination, start, kernels) if plain else elimination.costs()
        member = int(elimination.left[costs.argmin()])
        done += len(elimination.left)
        elimination.remove(member)
        if progress:
            progress(done, total)
        yield SearchStep(
            len(elimination.left), start.labels[member], elimination.relative_error, None
        )


def _plain_costs(elimination: Elimination, start: FilterBank, kernels: np.ndarray) -> np.ndarray:
    """Assign all kernels anew without each member in turn."""
    unit = unit_bank(start.kernels.reshape(len(start), -1))
    errors = [
        Elimination(kernels, unit[elimination.left[elimination.left != k]]).relative_error
        for k in elimination.left
    ]
    return np.square(errors)


def _bench(
    checkpoint: Checkpoint,
    start: FilterBank,
    names: Sequence[str],
    data: SearchData,
    plain: bool,
) -> dict[str, Any]:
    settings = asdict(data.evaluation)
    source = data.source
    return {
        "network": {
            "source": str(Path(source).resolve()) if Path(source).exists() else source,
            "digest": checkpoint.digest,
            "architecture": checkpoint.architecture,
            "preprocess": dict(data.preprocess),
        },
        "images": asdict(data.images),
        "settings": {k: settings[k] for k in ("batch_size", "workers", "device")},
        "kernels": start.kernels.reshape(len(start), -1).tolist(),
        "layers": list(names),
        "size": list(start.kernel_size),
        "plain": plain,
    }


class _Judge:
    """Asks workers how many images candidates get wrong."""

    def __init__(self, bench: Mapping[str, Any], jobs: JobSettings) -> None:
        self.bench, self.jobs = bench, jobs

    def search(
        self, elimination: Elimination, start: FilterBank, to: int, progress: Progress | None
    ) -> BankSearch:
        original = self._ask([([], None, None)])[0]
        wrong = self._ask([(elimination.left.tolist(), None, None)])[0]["wrong"]
        steps = [SearchStep(len(start), None, elimination.relative_error, wrong)]
        total, done = sum(range(to + 1, len(start) + 1)), 0
        while len(elimination.left) > to:
            member, wrong = self._least_missed(elimination, wrong)
            done += len(elimination.left)
            elimination.remove(member)
            steps.append(
                SearchStep(
                    len(elimination.left), start.labels[member], elimination.relative_error, wrong
                )
            )
            if progress:
                progress(done, total)
        return BankSearch("accuracy", start, tuple(steps), original["images"], original["wrong"])

    def _least_missed(self, elimination: Elimination, wrong: int) -> tuple[int, int]:
        """Find the member to remove, and the wrong images without it."""
        members = elimination.left.tolist()
        order = np.argsort(elimination.costs(), kind="stable")
        used = elimination.usage()
        plain = bool(self.bench["plain"])
        best, least = -1, None
        # A member that stands for no kernel changes nothing.
        if not plain and used[order[0]] == 0:
            best, least = int(elimination.left[order[0]]), wrong
        candidates = [members[k] for k in order if plain or used[k]]
        for begin in range(0, len(candidates), self.jobs.jobs):
            part = candidates[begin : begin + self.jobs.jobs]
            bound = None if plain else least
            found = self._ask([(members, each, bound) for each in part])
            for each, answer in zip(part, found, strict=True):
                if answer["wrong"] is not None and (least is None or answer["wrong"] < least):
                    best, least = each, answer["wrong"]
        assert least is not None
        return best, least

    def _ask(self, questions: Sequence[tuple[list[int], int | None, int | None]]) -> list[Any]:
        arguments = [
            {"bench": self.bench, "members": members, "removed": removed, "bound": bound}
            for members, removed, bound in questions
        ]
        return run_jobs(count_wrong, arguments, self.jobs)
