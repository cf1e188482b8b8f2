"""Evaluate and compare checkpoints: the entry points that take a file's contents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import DataSpec, as_spec, open_data
from filtersurgeon.data.kinds import ALL_KINDS
from filtersurgeon.data.splits import Part
from filtersurgeon.errors import DataError, OptionError
from filtersurgeon.learn.compare import Comparison, ComparisonSettings, RandomImages, Subject
from filtersurgeon.learn.compare import compare as compare_modules
from filtersurgeon.learn.evaluate import DataPlan, EvaluationSettings, NetworkPlan, evaluate_shards
from filtersurgeon.learn.evaluate import evaluate as evaluate_module
from filtersurgeon.learn.jobs import JobSettings, reachable
from filtersurgeon.learn.networks import open_network, running
from filtersurgeon.networks.architecture import identify
from filtersurgeon.networks.dry_run import find_size
from filtersurgeon.networks.inputs import INPUTS
from filtersurgeon.networks.opened_module import analyses_modules, analyses_several
from filtersurgeon.networks.outputs import OUTPUT

Notes = Callable[[str], None]
_EVALUATION, _COMPARISON = EvaluationSettings(), ComparisonSettings()
_SHARD_IMAGES = 1000


@analyses_modules
def evaluate(
    checkpoint: Checkpoint,
    data: DataSpec | str | Any,
    settings: EvaluationSettings = _EVALUATION,
    *,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    tell: Notes | None = None,
) -> Any:
    """Measure the accuracy of a checkpoint's network on labelled images.

    Images with one class give top-1 and top-5 accuracy; those with several labels ROC AUC and
    average precision of each class, on its known labels; those with masks Dice and IoU.

    Args:
        checkpoint: the network; or a module in memory, with its ``example_inputs`` by name.
        data: which images; anything else than a :class:`DataSpec` is its source: the name of a
            file or data set, or images in memory.
        settings: batch size, device and so on.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        progress: told images done and images in all.
        tell: told what was converted or left out.

    Returns:
        An :class:`Evaluation`; for images with several labels a :class:`MultiLabelEvaluation`, for
        those with masks a :class:`MaskEvaluation`.

    Raises:
        ArchitectureError: the network cannot be built, or does not take such images.
        DataError: the images do not fit it, or cannot be read.
        OptionError: there is no such device or split.
        OutOfMemoryError: a batch does not fit.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet", num_classes=2)
        >>> images = fs.DataSpec("dashes", subset=8)
        >>> evaluation = fs.evaluate(checkpoint, images, fs.EvaluationSettings(confusion=True))
        >>> evaluation.n_images, evaluation.class_images
        (8, (3, 5))
        >>> len(evaluation.confusion), len(evaluation.confusion[0])
        (2, 2)
        >>> from torch import nn
        >>> module = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
        >>> found = fs.evaluate(module, "cells:8", example_inputs=(1, 48, 48))
        >>> found.n_images, len(found.dice)
        (8, 2)
    """
    network = open_network(checkpoint, preprocess)
    images = open_data(as_spec(data), network.preprocessing, network.n_classes, kinds=ALL_KINDS)
    _tell([*images.notes, *_warn_if_seen([checkpoint], images.part)], tell)
    with running(network.name):
        return evaluate_module(network.model, images, network.n_classes, settings, progress)


def evaluate_in_jobs(
    checkpoint: Checkpoint,
    source: str,
    data: DataSpec,
    settings: EvaluationSettings,
    jobs: JobSettings,
    *,
    preprocess: Mapping[str, Any] | None = None,
    allow_pickle: bool = False,
    progress: Progress | None = None,
    tell: Notes | None = None,
) -> Any:
    """Evaluate by shards of the data, side by side; the counts equal those of one process.

    A shard has at most 1,000 images, so that with a cache little is done again after an
    interruption, however many workers there are.

    Args:
        checkpoint: the network.
        source: the file or name that it was loaded from, which workers open for themselves.
        data: which images.
        settings: batch size, device and so on.
        jobs: how many workers, where, and the folder of finished shards.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        allow_pickle: let workers open archives that hold code.
        progress: told shards done and shards in all.
        tell: told what was converted or left out.

    Raises:
        OptionError: the checkpoint came through a pipe, which workers cannot open.
        ArchitectureError: the network cannot be built.
        DataError: the images do not fit it, or cannot be read.
    """
    if source == "-":
        raise OptionError("`jobs` needs a checkpoint that workers can open: a file, not a pipe")
    checkpoint = identify(checkpoint)  # once, not in every worker
    network = open_network(checkpoint, preprocess)
    arguments = {
        "source": reachable(source),
        "digest": checkpoint.digest,
        "architecture": checkpoint.architecture,
        "allow_pickle": allow_pickle,
        "folder": str(Path.cwd()),
        "stated": {k: v for k, v in checkpoint.annotations.items() if k in (INPUTS, OUTPUT)},
    }
    plan = NetworkPlan("filtersurgeon.learn.networks:network_module", arguments)
    data = replace(
        data,
        source=reachable(data.source),
        labels=data.labels and reachable(data.labels),
        root=data.root and reachable(data.root),
    )
    images = DataPlan(data, network.preprocessing, network.n_classes)
    _tell([*images.images.notes, *_warn_if_seen([checkpoint], images.images.part)], tell)
    shards = max(jobs.jobs, -(-len(images.images) // _SHARD_IMAGES))
    with running(network.name):
        return evaluate_shards(plan, images, shards, settings, jobs, progress)


@analyses_several
def compare(
    checkpoints: Sequence[Checkpoint],
    data: DataSpec | str | Any | None = None,
    settings: ComparisonSettings = _COMPARISON,
    *,
    random: int = 0,
    seed: int = 0,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    tell: Notes | None = None,
) -> Comparison:
    """Compare two checkpoints: parameters, MACs, latency, outputs on the same inputs, accuracy.

    Args:
        checkpoints: the reference, and the one to compare with it; each may be a module in memory.
        data: labelled images, as :func:`evaluate` takes them; accuracy is measured too.
        settings: batch size, device and so on.
        random: without data, this many inputs of standard normal numbers.
        seed: of those numbers.
        preprocess: values that replace those of the reference's ``pretrained_cfg``.
        progress: told inputs done and inputs in all.
        tell: told what was converted or left out.

    Raises:
        OptionError: neither data nor random inputs, or both.
        ArchitectureError: a network cannot be built, or does not take such images.
        DataError: the networks' outputs differ in shape, or the images do not fit.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> replaced = fs.replace(checkpoint, bank="dog8", all_spatial=True)
        >>> settings = fs.ComparisonSettings(latency_runs=0)
        >>> comparison = fs.compare([checkpoint, replaced], settings=settings, random=2)
        >>> comparison.first.parameters == comparison.second.parameters
        True
        >>> comparison.difference.n_inputs, comparison.difference.relative_max > 0
        (2, True)
    """
    if (data is None) == (random == 0):
        raise OptionError("pass exactly one of `data` and `random`")
    if len(checkpoints) != 2:
        raise OptionError(f"`checkpoints` should be two to compare, not {len(checkpoints)}")
    first, second = (
        open_network(checkpoint, preprocess, any_size=data is None) for checkpoint in checkpoints
    )
    if first.n_classes != second.n_classes:
        raise DataError(
            f"{first.name} has {first.n_classes} classes, {second.name} {second.n_classes}"
        )
    if first.preprocessing != second.preprocessing:
        _tell([f"both see images as {first.name} expects them; {second.name} differs"], tell)
    if data is None:
        size = first.preprocessing.input_size or find_size(first.model, checkpoints[0])
        inputs: Any = RandomImages(random, size, seed)
    else:
        inputs = open_data(as_spec(data), first.preprocessing, first.n_classes, kinds=ALL_KINDS)
        _tell([*inputs.notes, *_warn_if_seen(checkpoints, inputs.part)], tell)
    subjects = (
        Subject(first.name, first.model, _file_bytes(checkpoints[0])),
        Subject(second.name, second.model, _file_bytes(checkpoints[1])),
    )
    with running(f"{first.name} or {second.name}"):
        return compare_modules(subjects, inputs, settings, progress)


def _warn_if_seen(checkpoints: Sequence[Checkpoint], part: Part | None) -> list[str]:
    """Warn if the weights were chosen with the images that measure them."""
    used = part.described() if part is not None else {}
    return [
        f"warning: {entry.verb} scored or fitted weights with these images"
        f" ({' split of '.join(filter(None, (part.split, part.data)))}); accuracy reads too high"
        for checkpoint in checkpoints
        for entry in checkpoint.history
        if part is not None and entry.data == used
    ]


def _file_bytes(checkpoint: Checkpoint) -> int:
    """Give the size of a checkpoint's file, or of its tensors if it came another way."""
    file = Path(checkpoint.name)
    return file.stat().st_size if file.is_file() else checkpoint.nbytes


def _tell(notes: Sequence[str], tell: Notes | None) -> None:
    if tell is not None:
        for text in notes:
            tell(text)
