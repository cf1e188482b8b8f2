"""Members of a filter bank, drawn evenly, at the norm of PyTorch's own initialisation."""

from __future__ import annotations

import numpy as np

from filtersurgeon.banks import FilterBank
from filtersurgeon.errors import OptionError
from filtersurgeon.filters import FilterLayer


def bank(layer: FilterLayer, generator: np.random.Generator, bank: FilterBank) -> np.ndarray:
    """Give every kernel a member of the bank, with a random sign.

    Each member stands for as many kernels of the layer as any other, to within one, in random
    order. All kernels have the root mean square norm of the weights that PyTorch draws for a
    convolution, ``U[-r, r]`` with ``r = 1 / sqrt(fan_in)``: ``sqrt(1 / (3 n))`` for ``n`` input
    channels per group, which is 0.577 in a depthwise layer, whatever the kernel size.
    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, section 4.1
    and Table 4, eight filters frozen from scratch.

    Args:
        layer: whose kernels to make.
        generator: draws the order of the members and their signs.
        bank: members of the layer's kernel size.

    Returns:
        ``(n_kernels, height, width)``, all of the same norm.

    Raises:
        OptionError: a member is zero.
    """
    norms = np.linalg.norm(bank.kernels, axis=(1, 2))
    if not norms.all():
        label = bank.labels[int(norms.argmin())]
        raise OptionError(f"bank {bank.name}: member {label} is zero, so it has no scale")
    unit = bank.kernels / norms[:, None, None]
    # A layer narrower than the bank takes members at random, not the first ones.
    order = generator.permutation(len(bank))
    drawn = generator.permutation(np.resize(order, layer.n_kernels))
    signs = generator.choice([-1.0, 1.0], layer.n_kernels)
    scale = (1 / (3 * layer.shape[1])) ** 0.5
    kernels: np.ndarray = scale * signs[:, None, None] * unit[drawn]
    return kernels
