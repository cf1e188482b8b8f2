"""Edits of a network's module tree that the shapes of its tensors do not show.

A checkpoint's ``structure`` is a list of objects such as ``{"edit": KIND, ...}``. Each kind is a
file in ``edits/``; what else the object holds are the keyword-only parameters of its function.
"""

from filtersurgeon.networks.structure.replay import replay, stated_values

__all__ = ["replay", "stated_values"]
