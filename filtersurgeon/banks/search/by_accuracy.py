"""Elimination by accuracy: workers count the images that a candidate gets wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.elimination import Elimination
from filtersurgeon.banks.search.result import BankSearch, SearchStep
from filtersurgeon.banks.search.trial import count_wrong
from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import DataSpec, part_of
from filtersurgeon.data.splits import FIT
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.jobs import JobSettings, reachable, run_jobs
from filtersurgeon.networks.architecture import resolve

_EVALUATION, _ONE_JOB = EvaluationSettings(batch_size=16), JobSettings()


@dataclass(frozen=True)
class SearchData:
    """What a search by accuracy works with.

    Attributes:
        images: which images; where a data set has both splits, train is read by default.
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


def bench(
    checkpoint: Checkpoint,
    start: FilterBank,
    names: Sequence[str],
    data: SearchData,
    plain: bool,
) -> dict[str, Any]:
    """Put together what workers need to judge a candidate, as JSON has it.

    Args:
        checkpoint: the network.
        start: the whole bank.
        names: the layers whose kernels are replaced.
        data: images, and how to run on them.
        plain: whether to leave out every shortcut.
    """
    settings = asdict(data.evaluation)
    return {
        "network": {
            "source": reachable(data.source),
            "digest": checkpoint.digest,
            "architecture": resolve(checkpoint),  # once, not in every worker
            "preprocess": dict(data.preprocess),
        },
        "images": asdict(data.images),
        "settings": {k: settings[k] for k in ("batch_size", "workers", "device")},
        "kernels": start.kernels.reshape(len(start), -1).tolist(),
        "layers": list(names),
        "size": list(start.kernel_size),
        "plain": plain,
    }


class Judge:
    """Asks workers how many images candidates get wrong."""

    def __init__(self, bench: Mapping[str, Any], jobs: JobSettings) -> None:
        self.bench, self.jobs = bench, jobs

    def search(
        self, elimination: Elimination, start: FilterBank, to: int, progress: Progress | None
    ) -> BankSearch:
        """Remove members until so many are left, each time the one missed least.

        Args:
            elimination: the kernels, and how they are assigned; changed on the way.
            start: the whole bank.
            to: the last size.
            progress: told candidates done and candidates in all.
        """
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
        images = part_of(DataSpec(**self.bench["images"]), FIT).described()
        return BankSearch(
            "accuracy", start, tuple(steps), original["images"], original["wrong"], images
        )

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
