"""FillZero: new values in the place of zeroed weights."""

from __future__ import annotations

import numpy as np


def fill_zero(weight: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Fill what is zero in the weight of a convolution.

    A kernel of zeros gets Kaiming-uniform values, from U[-b, b] with ``b = sqrt(6 / (in/groups *
    kh * kw))``. A zero in any other kernel gets normal noise of that kernel's mean and standard
    deviation over all its positions. All other weights keep their bits.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 3.3.
    The paper says "Kaiming uniform", which is taken as it is defined: the bound of He et al.,
    *Delving Deep into Rectifiers*, 2015, for a rectifier. The authors' code calls
    ``torch.nn.init.kaiming_uniform_(a=sqrt(5))``, PyTorch's default for layers, whose bound
    ``1 / sqrt(in/groups * kh * kw)`` is smaller by a factor of ``sqrt(6)``, 2.45.

    Args:
        weight: ``(out, in/groups, kh, kw)`` of a float type; not changed.
        generator: draws the values, as many whatever is zero, so that a kernel's new values do not
            depend on the other kernels.

    Returns:
        The filled weight, of the same shape and type.
    """
    kernels = weight.reshape(*weight.shape[:2], -1)
    zero = kernels == 0
    bound = np.sqrt(6 / max(1, kernels[0].size))
    fresh = generator.uniform(-bound, bound, kernels.shape)
    noise = generator.standard_normal(kernels.shape)
    exact = kernels.astype(np.float64)
    noise = exact.mean(axis=2, keepdims=True) + exact.std(axis=2, keepdims=True) * noise
    filled = np.where(zero.all(axis=2, keepdims=True), fresh, noise).astype(weight.dtype)
    return np.where(zero, filled, kernels).reshape(weight.shape)
