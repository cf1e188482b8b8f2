"""Kernel scores: the entry point that takes a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import DataSpec, open_data, part_of
from filtersurgeon.data.image_run import ImageRun, as_run
from filtersurgeon.data.images import LabelledImages
from filtersurgeon.data.noise import noise_images
from filtersurgeon.data.splits import FIT, TRAIN
from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.filters import FilterLayer, layer_seed, layers_to_analyse
from filtersurgeon.learn.networks import open_network, running
from filtersurgeon.ranking.kernel_scores import KernelScores
from filtersurgeon.ranking.resumable_sums import ResumableSums
from filtersurgeon.ranking.saliency import SaliencySettings, saliency
from filtersurgeon.registry import RANKING_METHODS

WITHOUT_DATA = ("lamp", "l1", "l2", "random")
METHODS = ("saliency", *WITHOUT_DATA)
_SALIENCY = SaliencySettings()
_OWN = ("batch_size", "gradient", "rescale")


def kernel_scores(
    checkpoint: Checkpoint,
    method: str = "saliency",
    *,
    data: ImageRun | DataSpec | str | None = None,
    options: Mapping[str, Any] | None = None,
    layers: Iterable[str] | None = None,
    seed: int = 0,
    file: str | Path | None = None,
    progress: Progress | None = None,
) -> KernelScores:
    """Score every kernel of a network, comparable over all its layers.

    ``saliency`` is Eq. 4 of Gaudio et al., *ExplainFix* (see ``ranking/saliency.py``)
    and needs labelled images, which are visited in an order drawn by the seed, for a minibatch
    should not hold one class only. ``l1`` and ``l2`` are the norms of the kernels, ``lamp`` the
    squared norm relative to all stronger kernels of the layer, ``random`` draws from U[0, 1); these
    need no images.

    Args:
        checkpoint: the network.
        method: ``saliency``, ``lamp``, ``l1``, ``l2`` or ``random``.
        data: labelled images and where to run, or only the images, or only their source.
        options: of ``saliency``: ``batch_size`` (4), ``gradient`` (False), ``rescale`` (True).
        layers: globs; None takes every convolution whose kernels are larger than 1x1.
        seed: of ``random``, and of the order of the images.
        file: where ``saliency`` keeps its sums, a ``.safetensors`` file of scores. An interrupted
            run with the same arguments goes on from it, to the same bits.
        progress: told images done and images in all; without images, layers.

    Returns:
        Scores of every layer, float64, higher = more important: as many as its weight has kernels,
        ``(out, in/groups)``, or ``(in, out/groups)`` for a transposed convolution.

    Raises:
        OptionError: an unknown method or option, images missing or given in vain, or a file of
            another run.
        LayerError: no such layer, or one with values that are not finite.
        ArchitectureError: the network cannot be built, or does not take such images.
        DataError: the images do not fit it, cannot be read, or have no labels.
        OutOfMemoryError: a minibatch does not fit.

    Examples:
        >>> import numpy as np
        >>> import filtersurgeon as fs
        >>> weight = np.arange(72, dtype=np.float32).reshape(4, 2, 3, 3)
        >>> checkpoint = fs.Checkpoint({"conv.weight": fs.StoredTensor.from_array(weight, "F32")})
        >>> fs.kernel_scores(checkpoint, "l1").layers["conv"]
        array([[ 36., 117.],
               [198., 279.],
               [360., 441.],
               [522., 603.]])
    """
    check_method(method)
    chosen = layers_to_analyse(checkpoint, layers)
    return score_layers(
        checkpoint, chosen, method, data=data, options=options, seed=seed, file=file,
        progress=progress,
    )  # fmt: skip


def check_method(method: str) -> None:
    """Refuse what is no score of kernels; raises OptionError."""
    if method not in METHODS:
        raise OptionError(f"no score of kernels called {method!r}{near_misses(method, METHODS)}")


def score_layers(
    checkpoint: Checkpoint,
    chosen: Sequence[FilterLayer],
    method: str,
    *,
    data: ImageRun | DataSpec | str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    file: str | Path | None = None,
    progress: Progress | None = None,
) -> KernelScores:
    """Score every kernel of given layers, of however many axes; see :func:`kernel_scores`."""
    check_method(method)
    own = dict(options or {})
    if method in WITHOUT_DATA:
        if data is not None or file is not None or own:
            raise OptionError(f"{method} looks at no images and has no options")
        return _scores_of_weights(chosen, method, seed, progress)
    if data is None:
        raise OptionError("saliency looks at labelled images: name them with `data`")
    unknown = [name for name in own if name not in _OWN]
    if unknown:
        raise OptionError(f"saliency has no option {unknown[0]!r}{near_misses(unknown[0], _OWN)}")
    run = as_run(data)
    settings = SaliencySettings(**own, workers=run.workers, device=run.device)
    kept = None if file is None else Path(file)
    return _saliency(checkpoint, chosen, run, settings, seed, kept, progress)


def saliency_of_noise(
    checkpoint: Checkpoint,
    count: int,
    side: int,
    settings: SaliencySettings = _SALIENCY,
    *,
    layers: Iterable[str] | None = None,
    seed: int = 0,
) -> KernelScores:
    """Score every kernel by Eq. 4 on images of noise with random labels.

    For networks that were never trained, whose outputs mean nothing for any image.

    Args:
        checkpoint: the network.
        count: number of images.
        side: height and width of the images, where the checkpoint states no input size.
        settings: batch size and device.
        layers: globs; None takes every convolution whose kernels are larger than 1x1.
        seed: of the noise and the labels.

    Raises:
        OptionError: no images.
        ArchitectureError: the network cannot be built, or does not take such images.
    """
    if min(count, side) < 1:
        raise OptionError("saliency of noise needs at least one image of at least one pixel")
    network = open_network(checkpoint)
    size = network.preprocessing.input_size or (network.preprocessing.channels, side, side)
    images = noise_images(count, size, network.n_classes, seed)
    sums = ResumableSums({}, "saliency", {"noise": count, "seed": seed}, None)
    weights = {layer.name: layer.tensor for layer in layers_to_analyse(checkpoint, layers)}
    with running(network.name):
        for seen, part in saliency(network.model, images, weights, settings):
            sums.add(seen, part)
    return sums.scores()


def _scores_of_weights(
    layers: Sequence[FilterLayer], method: str, seed: int, progress: Progress | None
) -> KernelScores:
    function, found = RANKING_METHODS.function(method), {}
    for done, layer in enumerate(layers, 1):
        kernels = layer.matrix().reshape(layer.n_kernels, -1)
        drawn = {"seed": layer_seed(layer.name, seed)} if method == "random" else {}
        found[layer.name] = np.asarray(function(kernels, **drawn)).reshape(layer.shape[:2])
        if progress:
            progress(done, len(layers))
    return KernelScores(method, {"seed": seed} if method == "random" and seed else {}, found)


def _saliency(
    checkpoint: Checkpoint,
    layers: Sequence[FilterLayer],
    run: ImageRun,
    settings: SaliencySettings,
    seed: int,
    file: Path | None,
    progress: Progress | None,
) -> KernelScores:
    network = open_network(checkpoint, run.preprocess)
    images = open_data(run.data, network.preprocessing, network.n_classes, use=FIT)
    if run.tell is not None:
        for text in images.notes:
            run.tell(text)
    images = images.take(np.random.default_rng(seed).permutation(len(images)).tolist())
    options = _options(settings, run.data, seed)
    origin = {} if file is None else _origin(checkpoint, layers, images, options)
    sums = ResumableSums(origin, "saliency", options, file, part_of(run.data, FIT).described())
    left = images.take(range(sums.images, len(images)))
    weights = {layer.name: layer.tensor for layer in layers}
    with running(network.name), sums.kept():
        for count, part in saliency(network.model, left, weights, settings):
            sums.add(count, part)
            sums.keep_now_and_then()
            if progress:
                progress(sums.images, len(images))
    return sums.scores()


def _options(settings: SaliencySettings, data: DataSpec, seed: int) -> dict[str, Any]:
    """List what decides the result and differs from the defaults; no paths."""
    own = {f.name: f.default for f in fields(SaliencySettings) if f.name in _OWN}
    chosen = {key: getattr(settings, key) for key in own}
    split = None if data.split == TRAIN else data.split
    drawn = {"seed": seed, "subset": data.subset, "split": split}
    return {k: v for k, v in chosen.items() if v != own[k]} | {k: v for k, v in drawn.items() if v}


def _origin(
    checkpoint: Checkpoint,
    layers: Sequence[FilterLayer],
    images: LabelledImages,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe what sums over images depend on, by digests."""
    first, _ = images[0]
    labels = np.array([images.source.labels[index] for index in images.indices], np.int64)
    seen = sha256(labels.tobytes())
    if hasattr(first, "numpy"):  # an unreadable image is reported when its turn comes
        seen.update(first.numpy().tobytes())
    return {
        "network": checkpoint.digest,
        "architecture": checkpoint.architecture,
        "layers": [layer.name for layer in layers],
        "images": seen.hexdigest(),
        "options": dict(options),
    }
