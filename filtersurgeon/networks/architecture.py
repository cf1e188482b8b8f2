"""Find the architecture that tensors belong to, by their names and shapes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from platformdirs import user_cache_path

from filtersurgeon.checkpoint.atomic import write_bytes
from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.checkpoint.naming import FACTORY
from filtersurgeon.checkpoint.tensor import COMPUTABLE, StoredTensor
from filtersurgeon.errors import ArchitectureError, CheckpointError, FilterSurgeonWarning
from filtersurgeon.networks.evidence import best_by_statistics, has_statistics
from filtersurgeon.networks.fitting import adapt, fits, input_size, load_tensors, shapes_of
from filtersurgeon.networks.inputs import with_inputs
from filtersurgeon.networks.signature import (
    Fingerprint,
    Shapes,
    fingerprint,
    known_architectures,
    nominate,
    read_index,
    to_json,
)

if TYPE_CHECKING:
    from torch import nn


_MOST_PARTS = 16
"""First parts of names that are looked at as if each were one network."""


def cache_folder() -> Path:
    """Give the folder of remembered architectures: ``FSURGEON_CACHE``, else the user's cache."""
    chosen = os.environ.get("FSURGEON_CACHE")
    return Path(chosen) if chosen else user_cache_path("filtersurgeon")


def resolve(checkpoint: Checkpoint) -> str:
    """Give the architecture that a checkpoint states, or else the one that its tensors fit.

    Where several fit, the statistics of the batch normalisations tell which one the network was
    trained with, see :mod:`filtersurgeon.networks.evidence`; else the commonest is taken, whose
    name is the plain one. Either way a :class:`~filtersurgeon.errors.FilterSurgeonWarning` names
    the others. The tensors that are looked at are those that a chain of edits began with, as edited
    kernels have other statistics.

    Returns:
        ``timm:NAME`` or ``torchvision:NAME``.

    Raises:
        ArchitectureError: no known network has these tensors, or several do and nothing tells
            which is meant (all are named).
    """
    if checkpoint.architecture:
        return with_inputs(checkpoint.architecture, checkpoint)
    return with_inputs(_look_up(checkpoint), checkpoint)


def _look_up(checkpoint: Checkpoint) -> str:
    """Find the architecture that a checkpoint's tensors fit."""
    if factory := checkpoint.annotations.get(FACTORY):
        raise ArchitectureError(
            f"{checkpoint.name} was made by a function of its author's; pass `arch` "
            f"factory:{factory[:60]}, or `allow_factory` to run the one that the file names"
        )
    original = checkpoint.original or checkpoint
    fitting = candidates(original)
    if not fitting:
        _check_one_network(original)
        raise ArchitectureError(
            f"{checkpoint.name} ({len(checkpoint)} tensors) fits no network of timm or "
            "torchvision; pass its architecture with `arch`: timm:NAME or factory:MODULE:FUNCTION"
        )
    if len(fitting) == 1 and len(fitting[0]) == 1:
        return fitting[0][0]
    chosen, why = _choose(original, fitting)
    same = [x for alike in fitting if chosen in alike for x in alike if x != chosen]
    others = [x for alike in fitting if chosen not in alike for x in alike]
    text = f"{checkpoint.name}: using {chosen}{why}"
    if same:
        text += f"; {' and '.join(same)} computes the same"
    if others:
        text += f"; the tensors also fit {' and '.join(others)}: pass `arch` if that is meant"
    warnings.warn(FilterSurgeonWarning(text), stacklevel=2)
    return chosen


def _check_one_network(checkpoint: Checkpoint) -> None:
    """Refuse tensors of several networks, or of one with others beside; name their prefixes."""
    below: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes_of(checkpoint).items():
        first, point, rest = name.partition(".")
        below.setdefault(first + point, {})[rest] = shape
    if len(below) > _MOST_PARTS:
        return
    entries = read_index().entries
    found = {
        prefix: alike[0].architecture
        for prefix, shapes in below.items()
        if (alike := nominate(entries, shapes))
    }
    if found:
        listed = " and ".join(f"{name} under {prefix!r}" for prefix, name in found.items())
        beside = " beside other tensors" if len(found) == 1 else ""
        raise ArchitectureError(
            f"{checkpoint.name} holds {listed}{beside}; choose one with `prefix`"
        )


def identify(checkpoint: Checkpoint) -> Checkpoint:
    """Record the architecture in a checkpoint, so that it is never looked up from other shapes.

    Raises:
        ArchitectureError: as :func:`resolve`.
    """
    return replace(checkpoint, architecture=resolve(checkpoint))


def settle_architecture(checkpoint: Checkpoint) -> Checkpoint:
    """Record the architecture of changed tensors if several fit, before they are written.

    What tells several apart are the values of the original tensors, which the reader of the output
    no longer has. An architecture that alone fits is found again at any time.
    """
    stated = checkpoint.architecture or FACTORY in checkpoint.annotations
    if stated or not checkpoint.history or checkpoint.structure:
        return checkpoint
    original = checkpoint.original or checkpoint
    if has_statistics(original) and len(nominate(read_index().entries, shapes_of(original))) > 1:
        with contextlib.suppress(ArchitectureError):
            return identify(checkpoint)
    return checkpoint


def _choose(checkpoint: Checkpoint, fitting: list[list[str]]) -> tuple[str, str]:
    """Choose one of several architectures, and say why."""
    if len(fitting) == 1:
        return find_plainest(fitting[0]) or fitting[0][0], ""
    firsts = [find_plainest(alike) or alike[0] for alike in fitting]
    told = best_by_statistics(checkpoint, firsts)
    if told is not None:
        return told, " by its batch-norm statistics"
    common = find_plainest(firsts)
    if common is not None and has_statistics(checkpoint):
        return common, ", the commonest"
    raise ArchitectureError(
        f"{checkpoint.name} fits several architectures that compute differently, which its "
        f"tensors do not tell; pass {' or '.join(f'`arch` {name}' for name in firsts)}"
    )


def find_plainest(architectures: list[str]) -> str | None:
    """Give the architecture whose name the others' extend, as ``resnetblur18`` does ``resnet18``.

    Variants are called after the network that they vary, which is the commoner one.
    """
    bare = [name.partition(":")[2] for name in architectures]
    return next(
        (
            full
            for full, name in zip(architectures, bare, strict=True)
            if all(_within(name, other) for other in bare)
        ),
        None,
    )


def _within(short: str, long: str) -> bool:
    """Tell whether the letters of one word stand in another, in their order."""
    letters = iter(long)
    return all(letter in letters for letter in short)


def candidates(checkpoint: Checkpoint) -> list[list[str]]:
    """List the architectures that a checkpoint's names and shapes fit.

    Those that compute the same function of these tensors stand together.

    The answer is remembered in the cache folder, under a digest of names, shapes and the versions
    of the libraries.
    """
    shapes = shapes_of(checkpoint)
    remembered = cache_folder() / "architectures" / f"{_cache_key(shapes)}.json"
    with contextlib.suppress(OSError, ValueError):
        return _names(parse_json(remembered.read_text("utf-8")))
    found = _distinct(_find_fitting(shapes), checkpoint)
    with contextlib.suppress(OSError, CheckpointError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(remembered, json.dumps(found).encode())
    return found


def _names(content: object) -> list[list[str]]:
    """Take names of the libraries' networks out of a remembered answer; raises ValueError."""
    if not isinstance(content, list) or not all(
        isinstance(alike, list)
        and alike
        and all(isinstance(x, str) and x.startswith(("timm:", "torchvision:")) for x in alike)
        for alike in content
    ):
        raise ValueError("not a list of architectures")
    return content


def _cache_key(shapes: Shapes) -> str:
    from importlib.metadata import version

    form = 3  # of the remembered answer
    text = json.dumps([form, sorted(shapes.items()), version("timm"), version("torchvision")])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _find_fitting(shapes: Shapes) -> list[str]:
    """Compare names and shapes with the index, then with the networks themselves."""
    likely = nominate(_index(), shapes)
    return [entry.architecture for entry in likely if fits(entry.architecture, shapes)]


def _index() -> list[Fingerprint]:
    """Give the fingerprints of the installed networks.

    The package ships those of one version of timm and torchvision; networks that the installed
    versions have besides are looked at once, and remembered.
    """
    from importlib.metadata import version

    shipped = read_index()
    if all(version(library) == known for library, known in shipped.versions.items()):
        return shipped.entries
    known = {entry.architecture for entry in shipped.entries}
    name = f"timm-{version('timm')}-torchvision-{version('torchvision')}.json"
    extra = cache_folder() / name
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return shipped.entries + read_index(extra).entries
    new = [fingerprint(name) for name in known_architectures() if name not in known]
    found = [entry for entry in new if entry is not None]
    with contextlib.suppress(OSError, CheckpointError):
        extra.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(extra, to_json(found).encode())
    return shipped.entries + found


def _distinct(architectures: list[str], checkpoint: Checkpoint) -> list[list[str]]:
    """Put those together that compute the same function of the same weights.

    The weights are random ones of the checkpoint's shapes: its own may be all zero.
    """
    if len(architectures) < 2:
        return [[name] for name in architectures]
    random = replace(checkpoint, tensors=_random(checkpoint))
    found: list[tuple[nn.Module, tuple[int, ...], list[str]]] = []
    for architecture in architectures:
        model = adapt(architecture, shapes_of(checkpoint))
        load_tensors(model, random)
        model.float().eval()
        for other, size, alike in found:
            if _same(model, other, size):
                alike.append(architecture)
                break
        else:
            found.append((model, input_size(model, checkpoint), [architecture]))
    return [alike for _, _, alike in found]


def _random(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Draw tensors that keep activations at the scale of one; those of integers stay."""
    generator = np.random.default_rng(0)
    found = {}
    for name, stored in checkpoint.tensors.items():
        values = generator.standard_normal(stored.shape)
        if name.endswith("running_var"):
            values = 0.5 + np.abs(values)
        elif len(stored.shape) > 1:
            values /= max(1.0, prod(stored.shape[1:]) ** 0.5)
        drawn = stored.dtype in COMPUTABLE
        found[name] = StoredTensor.from_array(values, "F32") if drawn else stored
    return found


def _same(model: nn.Module, other: nn.Module, size: tuple[int, ...]) -> bool:
    """Compare the outputs of two networks for a random image, (channels, height, width)."""
    import torch

    image = torch.randn((1, *size), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = other(image)
        try:
            found = model(image)
        except (RuntimeError, AssertionError, ValueError):
            return False  # it takes images of another size only
    if expected.shape != found.shape:
        return False
    return bool((expected - found).abs().max() <= 1e-5 * expected.abs().max())
