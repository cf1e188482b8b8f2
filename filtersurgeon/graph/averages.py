"""Modules that average over their channels and can make up for channels that are gone.

Global response normalisation (Woo et al., ConvNeXt V2, Eq. 2) divides each channel's energy by the
mean over channels. Channels that carry zeros add nothing to the sum but count in the mean; without
them, the learned scale times (channels before / channels left) gives the same output.
"""

from __future__ import annotations

_SCALES = {"GlobalResponseNorm": "weight", "GRN": "gamma"}


def compensated(module_class: str) -> bool:
    """Tell whether a class of modules can make up for channels that are gone."""
    return module_class in _SCALES


def scale_of(module_class: str) -> str:
    """Name the parameter that is multiplied by (channels before / channels left)."""
    return _SCALES[module_class]
