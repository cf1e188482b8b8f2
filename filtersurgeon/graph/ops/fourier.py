"""Fourier transforms, and complex numbers as pairs of real ones."""

from __future__ import annotations

from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.ops import operator
from filtersurgeon.graph.zeros import if_all_silent


@operator("_fft_r2c", "_fft_c2c", "_fft_c2r", zero_preserving=if_all_silent)
def transform(step: Step) -> Labels:
    """Transform some axes, every element of which depends on the others; the rest pass."""
    labels = list(step.labels(step.args[0]))
    for dim in step.args[1]:
        step.pin(labels[dim], "transformed to frequencies")
        labels[dim] = None
    return tuple(labels)


@operator("view_as_real", zero_preserving=if_all_silent)
def view_as_real(step: Step) -> Labels:
    """Lay real and imaginary parts along a new last axis."""
    return (*step.labels(step.args[0]), None)


@operator("view_as_complex", zero_preserving=if_all_silent)
def view_as_complex(step: Step) -> Labels:
    """Take the last axis as real and imaginary parts."""
    *labels, last = step.labels(step.args[0])
    step.pin(last, "used as real and imaginary parts")
    return tuple(labels)


@operator("real", "imag", "_conj", "_neg_view", "resolve_conj", zero_preserving=if_all_silent)
def part(step: Step) -> Labels:
    """Take a part of every number, or its conjugate."""
    return step.labels(step.args[0])
