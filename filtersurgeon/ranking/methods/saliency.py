"""How much the true class's output depends on a filter; needs labelled images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import DataSpec, ImageRun, as_run, open_data, part_of
from filtersurgeon.data.images import LabelledImages, noise_images
from filtersurgeon.data.kinds import ALL_KINDS, CLASSES, class_index, label_digest
from filtersurgeon.data.splits import FIT, TRAIN
from filtersurgeon.errors import OptionError
from filtersurgeon.filters import FilterLayer, layers_to_analyse
from filtersurgeon.learn.networks import open_network, running
from filtersurgeon.ranking.kernel_scores import KernelScores
from filtersurgeon.ranking.resumable_sums import ResumableSums
from filtersurgeon.ranking.saliency import SaliencySettings
from filtersurgeon.ranking.saliency import saliency as minibatch_saliency

_SALIENCY = SaliencySettings()
_OWN = ("batch_size", "gradient", "rescale", "target")


def saliency(
    checkpoint: Checkpoint,
    layers: Sequence[FilterLayer],
    data: ImageRun | DataSpec | str,
    progress: Progress | None = None,
    file: str | Path | None = None,
    *,
    batch_size: int = 4,
    gradient: bool = False,
    rescale: bool = True,
    target: str | int | None = None,
    seed: int = 0,
) -> KernelScores:
    """Score every kernel of every layer by its saliency; filters, by the sum over their kernels.

    The saliency of a kernel is summed over minibatches: the sum over its positions of
    ``|sum over the images of gradient * weight|``, the gradient being that of the true class's
    output. With several labels the outputs of all true classes are added; with masks the outputs of
    the pixels' classes are averaged.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, Eq. 4.

    Args:
        checkpoint: the network.
        layers: those to rank.
        data: labelled images, and where to run.
        progress: told images done and images in all.
        file: where the sums are kept, a ``.safetensors`` file of scores. An interrupted run with
            the same arguments goes on from it, to the same bits.
        batch_size: images per minibatch; gradients may cancel within one, not between two.
        gradient: leave the factor of the weight out.
        rescale: divide the true class's output by its value, so that images count alike.
        target: the output to use in place of the true class's: its index, or its name where the
            checkpoint or the labels name the classes.
        seed: random seed of the order of the images.

    Returns:
        One score for each kernel, ``(out, in/groups)``, or ``(in, out/groups)`` for a transposed
        convolution. Not negative; without unit, or with ``gradient`` in that of one over the
        weights.

    Raises:
        OptionError: a minibatch without images, or the file belongs to another run.
        ArchitectureError: the network cannot be built, or does not take such images.
        DataError: the images do not fit it, cannot be read, or have no labels.
        LayerError: a gradient is not finite.
        OutOfMemoryError: a minibatch does not fit.
    """
    run = as_run(data)
    settings = SaliencySettings(batch_size, gradient, rescale, run.workers, run.device)
    network = open_network(checkpoint, run.preprocess)
    images = open_data(run.data, network.preprocessing, network.n_classes, use=FIT, kinds=ALL_KINDS)
    names = images.class_names or network.class_names
    chosen = None if target is None else class_index(target, network.n_classes, names)
    settings = replace(settings, target=chosen)
    if run.tell is not None:
        for text in images.notes:
            run.tell(text)
    images = images.take(np.random.default_rng(seed).permutation(len(images)).tolist())
    options, kept = _options(settings, run.data, seed), None if file is None else Path(file)
    origin = {} if kept is None else _origin(checkpoint, layers, images, options)
    sums = ResumableSums(origin, "saliency", options, kept, part_of(run.data, FIT).described())
    left = images.take(range(sums.images, len(images)))
    weights = {layer.name: layer.tensor for layer in layers}
    with running(network.name), sums.kept():
        for count, part in minibatch_saliency(network.model, left, weights, settings):
            sums.add(count, part)
            sums.keep_now_and_then()
            if progress:
                progress(sums.images, len(images))
    return sums.scores()


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
        seed: random seed of the noise and the labels.

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
        for seen, part in minibatch_saliency(network.model, images, weights, settings):
            sums.add(seen, part)
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
    labels = images.source.labels
    if images.kind == CLASSES:
        seen = sha256(np.array([labels[index] for index in images.indices], np.int64).tobytes())
    else:
        seen = sha256(b"".join(label_digest(labels, index) for index in images.indices))
    if hasattr(first, "numpy"):  # an unreadable image is reported when its turn comes
        seen.update(first.numpy().tobytes())
    return {
        "network": checkpoint.digest,
        "architecture": checkpoint.architecture,
        "layers": [layer.name for layer in layers],
        "images": seen.hexdigest(),
        "options": dict(options),
    }
