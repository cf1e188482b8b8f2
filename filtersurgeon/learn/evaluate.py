"""Accuracy of a network on labelled images, at once or in shards as independent jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.progress import Progress, shows_metric, tell_metric
from filtersurgeon.data.data import DataSpec, open_data
from filtersurgeon.data.images import LabelledImages, batches, make_loader
from filtersurgeon.data.kinds import ALL_KINDS, label_digest
from filtersurgeon.data.preprocess import Preprocessing
from filtersurgeon.data.sources import ArrayImages, FileImages
from filtersurgeon.errors import DataError, OptionError
from filtersurgeon.learn.jobs import JobSettings, run_jobs
from filtersurgeon.learn.outcomes import as_part, make_counter, merge_parts
from filtersurgeon.learn.scores import ScoreReader
from filtersurgeon.networks.devices import FittingBatches, batch_fits, find_device

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of an evaluation.

    Attributes:
        batch_size: images per batch.
        workers: processes that read images ahead.
        device: torch's name of the device; ``auto`` is a GPU if there is one.
        confusion: also count which class is taken for which.
    """

    batch_size: int = 64
    workers: int = 0
    device: str = "auto"
    confusion: bool = False


def evaluate(
    model: nn.Module,
    data: LabelledImages,
    n_classes: int,
    settings: EvaluationSettings = EvaluationSettings(),
    progress: Progress | None = None,
) -> Any:
    """Measure how good a network's outputs are on labelled images.

    The network is moved to the device; it runs in evaluation mode and comes back in the mode it
    had. A batch that does not fit into memory is halved, with a warning.

    Args:
        model: takes (images, channels, height, width); its outputs hold class scores, of images or
            of pixels.
        data: the labelled images.
        n_classes: outputs of the network.
        settings: batch size, device and so on.
        progress: called with images done and images in all after every batch.

    Returns:
        An ``Evaluation``; a ``MultiLabelEvaluation`` for images with several labels, a
        ``MaskEvaluation`` for masks.

    Raises:
        DataError: no images, an unreadable one, or outputs of another shape.
        OutputError: it is not clear which output holds the class scores.
        OptionError: there is no such device.
        OutOfMemoryError: a single image does not fit.
    """
    import torch

    if len(data) == 0:
        raise DataError("there are no images to evaluate")
    device = find_device(settings.device)
    names, read = data.class_names, ScoreReader(data.kind)
    counts = make_counter(data.kind, n_classes, device, names, settings.confusion)
    loader = make_loader(data, settings.batch_size, settings.workers)
    was_training = model.training
    model.to(device).eval()
    fitting = FittingBatches(settings.batch_size)

    def scores(images: Tensor) -> Tensor:
        return read(model, images.to(device, non_blocking=True))

    done, start = 0, perf_counter()
    try:
        with torch.inference_mode(), batch_fits(settings.batch_size):
            for images, labels in batches(loader):
                for outputs, _, true in fitting.run(scores, images, labels):
                    counts.update(outputs, true.to(device, non_blocking=True))
                    done += len(true)
                if shows_metric(progress):
                    tell_metric(progress, counts.running_metric())
                if progress is not None:
                    progress(done, len(data))
        return counts.result(perf_counter() - start)
    finally:
        model.train(was_training)


_EVALUATION, _ONE_JOB = EvaluationSettings(), JobSettings()


@dataclass(frozen=True)
class NetworkPlan:
    """How a worker builds the network.

    Attributes:
        function: ``module:function``, importable by workers, that gives the network.
        arguments: its keyword arguments, a JSON document.
        weights: a safetensors file loaded strictly into it, or None.
    """

    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None

    def build(self) -> nn.Module:
        """Build the network in evaluation mode.

        Raises:
            OptionError: there is no such function.
        """
        module, _, name = self.function.partition(":")
        try:
            network: nn.Module = getattr(import_module(module), name)(**self.arguments)
        except (ImportError, AttributeError, ValueError) as problem:
            raise OptionError(f"{self.function}: cannot be called ({problem})") from problem
        if self.weights is not None:
            from safetensors.torch import load_file

            network.load_state_dict(load_file(self.weights))
        return network.eval()

    def digest(self) -> str | None:
        """Give the digest of the weights' file."""
        if self.weights is None:
            return None
        with Path(self.weights).open("rb") as file:
            digest = sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class DataPlan:
    """What a worker evaluates on.

    Attributes:
        spec: which images.
        preprocessing: what the network expects of them.
        n_classes: outputs of the network.
    """

    spec: DataSpec
    preprocessing: Preprocessing
    n_classes: int

    @cached_property
    def images(self) -> LabelledImages:
        """The images, opened when first asked for."""
        return open_data(self.spec, self.preprocessing, self.n_classes, kinds=ALL_KINDS)


def evaluate_shards(
    network: NetworkPlan,
    data: DataPlan,
    shards: int,
    settings: EvaluationSettings = _EVALUATION,
    jobs: JobSettings = _ONE_JOB,
    progress: Progress | None = None,
) -> Any:
    """Evaluate a network on parts of the data side by side.

    Args:
        network: how to build it.
        data: what to evaluate on.
        shards: number of parts; more than workers makes for shorter pieces to repeat.
        settings: batch size, device and so on.
        jobs: where to run; its cache lets an interrupted evaluation go on.
        progress: called with shards done and shards in all.

    Returns:
        The sum over all parts. Its counts do not depend on how the data is cut; its seconds are
        those of all workers together.

    Raises:
        OptionError: fewer than one shard.
        DataError: as ``open_data`` and ``evaluate`` raise it.
    """
    if shards < 1:
        raise OptionError(f"shards must be at least 1, not {shards}")
    images = data.images
    shared = {
        "network": asdict(network),
        "digest": [network.digest(), _digest_of(images)],
        "data": {"spec": asdict(data.spec), "preprocessing": asdict(data.preprocessing)},
        "n_classes": data.n_classes,
        "settings": asdict(settings),
    }
    count = min(shards, len(images))
    plans = [{**shared, "shard": [number, count]} for number in range(count)]
    parts = run_jobs(_evaluate_shard, plans, jobs, progress)
    return merge_parts(parts)


def _evaluate_shard(
    network: dict[str, Any],
    digest: list[str | None],  # noqa: ARG001 (part of the job's key)
    data: dict[str, Any],
    n_classes: int,
    settings: dict[str, Any],
    shard: list[int],
) -> dict[str, Any]:
    """Evaluate one shard; runs in a worker."""
    preprocessing = Preprocessing(**data["preprocessing"])
    images = DataPlan(DataSpec(**data["spec"]), preprocessing, n_classes).images.shard(*shard)
    model = NetworkPlan(**network).build()
    return as_part(evaluate(model, images, n_classes, EvaluationSettings(**settings)))


def _digest_of(images: LabelledImages) -> str:
    """Digest which images are used under which labels; files count by size and time."""
    digest = sha256()
    if isinstance(images.source, ArrayImages):
        digest.update(images.source.pixels.tobytes())
    elif isinstance(images.source, FileImages):
        for index in images.indices:
            found = images.source.paths[index].stat()
            digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
    for index in images.indices:
        label = label_digest(images.source.labels, index)
        digest.update(f"{images.source.name(index)}\t".encode() + label + b"\n")
    return digest.hexdigest()
