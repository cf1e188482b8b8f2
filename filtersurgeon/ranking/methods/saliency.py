"""How much the true class's output depends on a filter; looks at labelled images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import DataSpec
from filtersurgeon.data.image_run import ImageRun
from filtersurgeon.filters import FilterLayer


def saliency(
    checkpoint: Checkpoint,
    layers: Sequence[FilterLayer],
    data: ImageRun | DataSpec | str,
    progress: Progress | None = None,
    *,
    batch_size: int = 4,
    gradient: bool = False,
    rescale: bool = True,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Score the N filters of every layer by the summed saliency of their kernels.

    The saliency of a kernel is summed over minibatches: the sum over its positions of
    ``|sum over the images of gradient * weight|``, the gradient being that of the true class's
    output.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, Eq. 4.

    Args:
        checkpoint: the network.
        layers: those to rank.
        data: labelled images, and where to run.
        progress: told images done and images in all.
        batch_size: images per minibatch; gradients may cancel within one, not between two.
        gradient: leave the factor of the weight out.
        rescale: divide the true class's output by its value, so that images count alike.
        seed: of the order of the images.

    Returns:
        ``(N,)`` by layer name, not negative; without unit, or with ``gradient`` in that of one
        over the weights.
    """
    from filtersurgeon.ranking.scoring import kernel_scores

    options = {"batch_size": batch_size, "gradient": gradient, "rescale": rescale}
    return kernel_scores(
        checkpoint, data=data, options=options, layers=[layer.name for layer in layers],
        seed=seed, progress=progress,
    ).per_filter()  # fmt: skip
