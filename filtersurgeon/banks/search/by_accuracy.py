"""Elimination by accuracy: workers count the images that go wrong with a candidate bank."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from dataclasses import replace as replaced
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.closest import closest_linear, unit_bank
from filtersurgeon.banks.search.result import BankSearch, Elimination, SearchStep
from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress, tell_metric
from filtersurgeon.checkpoint.tensor import decode, encode
from filtersurgeon.data.data import DataSpec, ImageRun, open_data, part_of
from filtersurgeon.data.images import LabelledImages, batches, make_loader
from filtersurgeon.data.splits import FIT
from filtersurgeon.filters import FilterLayer, find_layers
from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate
from filtersurgeon.learn.jobs import JobSettings, reachable, run_jobs
from filtersurgeon.learn.networks import Network, open_network, running
from filtersurgeon.learn.resuming import ResumingNetwork, fuse_norms
from filtersurgeon.networks.architecture import resolve
from filtersurgeon.networks.devices import FittingBatches, find_device
from filtersurgeon.networks.files import load
from filtersurgeon.networks.outputs import class_scores
from filtersurgeon.registry import TRANSFORMS

if TYPE_CHECKING:
    import torch

Members = Sequence[int]
CLOSE = 1e-4


class Trial:
    """A network, images in memory, and a bank.

    Images that the members left put farthest on the wrong side come first, so that a candidate
    which is no better than another is found out early. Outputs are worked out channels last and
    with fused normalisations, which is about twice as fast on a CPU, and rounds otherwise: an image
    whose two best classes are within ``CLOSE`` of the largest output is evaluated by the network as
    ``eval`` runs it, in the batch that ``eval`` puts it into.

    Args:
        work: the fields that :func:`filtersurgeon.banks.search.search_bank` puts together.
    """

    def __init__(self, work: Mapping[str, Any]) -> None:
        import torch

        network, settings = work["network"], work["settings"]
        self.unit = unit_bank(np.array(work["kernels"]))
        self.device = find_device(settings["device"])
        self.fitting = FittingBatches(settings["batch_size"])
        with load(network["source"], arch=network["architecture"]) as checkpoint:
            ready = open_network(checkpoint, network["preprocess"])
            data = _open_images(work, ready)
            layers = _choose(checkpoint, work["layers"])
            self.original = {x.name: x.matrix().reshape(x.n_kernels, -1) for x in layers}
            self.dtypes = {x.name: x.stored.dtype for x in layers}
        self.name = ready.name
        self.model = ready.model.to(self.device).eval()
        self.fast = deepcopy(self.model)
        self.fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.members: list[int] = []
        self.base = dict(self.original)
        self.choice: dict[str, np.ndarray] = {}
        loader = make_loader(data, self.fitting.size, settings["workers"])
        loaded = list(batches(loader))
        self.images = torch.cat([images for images, _ in loaded])
        self.labels = torch.cat([labels for _, labels in loaded])
        self.order = torch.arange(len(self.labels))
        self.factors = fuse_norms(self.fast, self.images[:1].to("meta"))
        self.network = ResumingNetwork(self.fast, list(self.original))
        self._settle(list(range(len(self.unit))))

    def original_wrong(self) -> int:
        """Count the wrong images of the network as it is."""
        self._write(self.original)
        self.network.changed(0)
        wrong = self._wrong(0, None)
        self._write(self.base)
        self.network.changed(0)
        assert wrong is not None
        return wrong

    def wrong(self, members: Members, removed: int | None, bound: int | None) -> int | None:
        """Count the wrong images with some members, less one of them.

        Args:
            members: those left, ascending.
            removed: the candidate for removal, or None.
            bound: give up as soon as so many images are wrong.

        Returns:
            The count, or None where it is not below the bound.
        """
        if list(members) != self.members:
            self._settle(list(members))
        left = [k for k in members if k != removed]
        changed = self._without(removed, left)
        self._write(changed)
        places = [place for place, name in enumerate(self.network.order) if name in changed]
        found = self._wrong(min(places, default=len(self.network.order) - 1), bound)
        self._write({name: self.base[name] for name in changed})
        return found

    def _settle(self, members: list[int]) -> None:
        """Make the kernels of some members those that candidates are compared with."""
        first = 0
        if self.members and set(members) < set(self.members):
            gone = [k for k in self.members if k not in members]
            hit = [bool(np.isin(self.choice[name], gone).any()) for name in self.network.order]
            first = hit.index(True) if any(hit) else len(hit)
        for name, kernels in self.original.items():
            fit = closest_linear(kernels, self.unit[members])
            self.choice[name] = np.array(members)[fit.choice]
            self.base[name] = self._round(fit.kernels, name)
        self.members = members
        self.network.changed(first)
        self._write(self.base)
        if first == 0:  # nothing is kept that another order would throw away
            self._sort_by_margin()

    def _without(self, removed: int | None, left: list[int]) -> dict[str, np.ndarray]:
        """Assign anew the kernels that used a member; gives the layers that have such."""
        changed = {}
        for name, choice in self.choice.items():
            rows = np.flatnonzero(choice == removed)
            if rows.size:
                kernels = self.base[name].copy()
                fit = closest_linear(self.original[name][rows], self.unit[left])
                kernels[rows] = self._round(fit.kernels, name)
                changed[name] = kernels
        return changed

    def _round(self, kernels: np.ndarray, name: str) -> np.ndarray:
        dtype = self.dtypes[name]
        return decode(encode(kernels, dtype), dtype).reshape(kernels.shape)

    def _write(self, kernels: Mapping[str, np.ndarray]) -> None:
        import torch

        with torch.no_grad():
            for name, values in kernels.items():
                weight: Any = self.model.get_submodule(name).weight
                # Copied, for what a checkpoint gives may be read-only.
                weight.copy_(torch.from_numpy(values.copy()).reshape(weight.shape))
                fused: Any = self.fast.get_submodule(name).weight
                factor = self.factors.get(name)
                fused.copy_(weight if factor is None else weight * factor[:, None, None, None])

    def _wrong(self, first: int, bound: int | None) -> int | None:
        while True:
            with self.fitting.halving(len(self.order)):
                return self._count(first, bound)
            self.network.changed(-1)  # what was kept belongs to batches of another size

    def _count(self, first: int, bound: int | None) -> int | None:
        wrong = 0
        for number, rows in enumerate(self.order.split(self.fitting.size)):
            wrong += self._wrong_of(number, rows, first)
            if bound is not None and wrong >= bound:
                return None
        return wrong

    def _wrong_of(self, number: int, rows: torch.Tensor, first: int) -> int:
        outputs = self._outputs(number, rows, first)
        wrong = outputs.argmax(dim=1) != self.labels[rows]
        best = outputs.topk(min(2, outputs.shape[1])).values
        clear = best[:, 0] - best[:, -1] > CLOSE * outputs.abs().amax(dim=1)
        for k in (~clear).nonzero().flatten().tolist():
            wrong[k] = self._wrong_in_eval(int(rows[k]))
        return int(wrong.sum())

    def _wrong_in_eval(self, image: int) -> bool:
        size = self.fitting.size
        begin = image // size * size
        outputs = self._run(self.model, self.images[begin : begin + size])
        return bool(outputs[image - begin].argmax() != self.labels[image])

    def _outputs(self, number: int, rows: torch.Tensor, first: int) -> torch.Tensor:
        import torch

        images = self.images[rows].to(memory_format=torch.channels_last)
        return self._run(lambda x: self.network.run(number, x, first), images)

    def _run(self, network: Callable[[torch.Tensor], Any], images: torch.Tensor) -> torch.Tensor:
        import torch

        with torch.inference_mode(), running(self.name):
            return class_scores(network(images.to(self.device))).cpu()

    def _sort_by_margin(self) -> None:
        import torch

        def run(size: int) -> torch.Tensor:
            self.network.changed(-1)
            return torch.cat([
                self._outputs(number, rows, last)
                for number, rows in enumerate(self.order.split(size))
            ])  # fmt: skip

        last = len(self.network.order) - 1
        outputs = self.fitting.repeat(run)
        labels = self.labels[self.order, None]
        true = outputs.gather(1, labels)[:, 0]
        others = outputs.scatter(1, labels, -torch.inf).amax(dim=1)
        self.order = self.order[(true - others).argsort(stable=True)]
        self.network.changed(-1)  # what was kept belongs to the batches as they were


def _open_images(work: Mapping[str, Any], network: Network) -> LabelledImages:
    spec = DataSpec(**work["images"])
    return open_data(spec, network.preprocessing, network.n_classes, use=FIT)


def _choose(checkpoint: Checkpoint, names: Sequence[str]) -> list[FilterLayer]:
    return [layer for layer in find_layers(checkpoint) if layer.name in names]


@lru_cache(maxsize=1)
def _trial(work: str) -> Trial:
    return Trial(json.loads(work))


def count_wrong(
    work: Mapping[str, Any], members: Members, removed: int | None, bound: int | None
) -> dict[str, Any]:
    """Try one candidate; runs in a worker, which keeps its network from job to job.

    Returns:
        ``wrong``: the number of wrong images, None where it reached the bound.
    """
    if work["plain"] or "compensate" in work:
        return _replace_and_evaluate(work, [k for k in members if k != removed])
    trial = _trial(json.dumps(work, sort_keys=True))
    if not members:
        return {"wrong": trial.original_wrong(), "images": len(trial.labels)}
    return {"wrong": trial.wrong(members, removed, bound)}


def _replace_and_evaluate(work: Mapping[str, Any], members: Members) -> dict[str, Any]:
    """Do what ``replace`` and ``eval`` do, one after the other, with nothing kept."""
    network, size = work["network"], work["size"]
    with load(network["source"], arch=network["architecture"]) as checkpoint:
        tried = checkpoint
        if members:
            kernels = np.array(work["kernels"])[list(members)].reshape(-1, *size)
            bank = FilterBank("candidate", kernels, tuple(map(str, members)))
            replace = TRANSFORMS.function("replace")
            tried = replace(
                checkpoint, bank=bank, layers=work["layers"], all_spatial=True, **_adapted(work)
            )
        ready = open_network(tried, network["preprocess"])
    data = _open_images(work, ready)
    settings = EvaluationSettings(**work["settings"])
    with running(ready.name):
        found = evaluate(ready.model, data, ready.n_classes, settings)
    return {"wrong": found.n_images - found.top1, "images": found.n_images}


def _adapted(work: Mapping[str, Any]) -> dict[str, Any]:
    """Give the words by which ``replace`` adapts the network, and the images for that."""
    if "compensate" not in work:
        return {}
    spec, settings = DataSpec(**work["images"]), work["settings"]
    fewer = replaced(spec, subset=min(spec.subset or _CALIBRATION, _CALIBRATION))
    preprocess = work["network"]["preprocess"]
    run = ImageRun(fewer, preprocess, settings["workers"], settings["device"])
    # Kernels are fitted by weights, as in a search without compensation.
    return {
        "compensate": work["compensate"], "fit": "weights", "data": run, "seed": spec.seed
    }  # fmt: skip


_CALIBRATION = 128
_EVALUATION, _ONE_JOB = EvaluationSettings(batch_size=16), JobSettings()


@dataclass(frozen=True)
class SearchData:
    """The network and images of a search by accuracy.

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


def describe_work(
    checkpoint: Checkpoint,
    start: FilterBank,
    names: Sequence[str],
    data: SearchData,
    plain: bool,
    compensate: str = "none",
) -> dict[str, Any]:
    """Put together what workers need to evaluate a candidate, as JSON has it.

    Args:
        checkpoint: the network.
        start: the whole bank.
        names: the layers whose kernels are replaced.
        data: images, and how to run on them.
        plain: whether to leave out every shortcut.
        compensate: how the network is adapted to each candidate.
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
        **({"compensate": compensate} if compensate != "none" else {}),
    }


class CandidateEvaluator:
    """Has workers count the images that candidates get wrong."""

    def __init__(self, work: Mapping[str, Any], jobs: JobSettings) -> None:
        self.work, self.jobs = work, jobs

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
            right = 100 * (1 - wrong / original["images"])
            tell_metric(progress, f"{len(elimination.left)} members, top-1 {right:.2f} %")
            if progress:
                progress(done, total)
        images = part_of(DataSpec(**self.work["images"]), FIT).described()
        return BankSearch(
            "accuracy", start, tuple(steps), original["images"], original["wrong"], images
        )

    def _least_missed(self, elimination: Elimination, wrong: int) -> tuple[int, int]:
        """Find the member to remove, and the wrong images without it."""
        members = elimination.left.tolist()
        order = np.argsort(elimination.costs(), kind="stable")
        used = elimination.usage()
        plain = bool(self.work["plain"])
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
            {"work": self.work, "members": members, "removed": removed, "bound": bound}
            for members, removed, bound in questions
        ]
        return run_jobs(count_wrong, arguments, self.jobs)
