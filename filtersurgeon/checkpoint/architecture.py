"""Which network do these tensors belong to? Names and shapes tell, mostly."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from platformdirs import user_cache_path

from filtersurgeon.checkpoint.atomic import write_bytes
from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.fitting import adapted, fits, input_size, shapes_of
from filtersurgeon.checkpoint.jsontext import parse_json
from filtersurgeon.checkpoint.loading import load_tensors
from filtersurgeon.checkpoint.signature import (
    Fingerprint,
    Shapes,
    fingerprint,
    known_architectures,
    names_hash,
    read_index,
    to_json,
)
from filtersurgeon.errors import ArchitectureError, CheckpointError


def cache_folder() -> Path:
    """Give the folder of remembered architectures: ``FSURGEON_CACHE``, else the user's cache."""
    chosen = os.environ.get("FSURGEON_CACHE")
    return Path(chosen) if chosen else user_cache_path("filtersurgeon")


def resolve(checkpoint: Checkpoint) -> str:
    """Give the architecture that a checkpoint states, or else the one that its tensors fit.

    Networks that fit alike and compute the same, as timm's and torchvision's VGG do, count as one
    (timm's).

    Returns:
        ``timm:NAME`` or ``torchvision:NAME``.

    Raises:
        ArchitectureError: no known network has these tensors, or several do (all are named).
    """
    if checkpoint.architecture:
        return checkpoint.architecture
    fitting = candidates(checkpoint)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ArchitectureError(
            f"{checkpoint.name} fits {len(fitting)} architectures that compute differently, which "
            f"no tensor tells; pass {' or '.join(f'--arch {name}' for name in fitting)}"
        )
    raise ArchitectureError(
        f"{checkpoint.name} ({len(checkpoint)} tensors) fits no network of timm or torchvision; "
        "name its architecture with --arch NAME"
    )


def candidates(checkpoint: Checkpoint) -> list[str]:
    """List the architectures that a checkpoint's names and shapes fit, one for each function.

    The answer is remembered in the cache folder, under a digest of names, shapes and the versions
    of the libraries.
    """
    shapes = shapes_of(checkpoint)
    remembered = cache_folder() / "architectures" / f"{_cache_key(shapes)}.json"
    with contextlib.suppress(OSError, ValueError):
        return _names(parse_json(remembered.read_text("utf-8")))
    found = _distinct(checkpoint, _fitting(shapes))
    with contextlib.suppress(OSError, CheckpointError):
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(remembered, json.dumps(found).encode())
    return found


def _names(content: object) -> list[str]:
    """Take names of the libraries' networks out of a remembered answer; raises ValueError."""
    if not isinstance(content, list) or not all(
        isinstance(name, str) and name.startswith(("timm:", "torchvision:")) for name in content
    ):
        raise ValueError("not a list of architectures")
    return content


def _cache_key(shapes: Shapes) -> str:
    from importlib.metadata import version

    text = json.dumps([sorted(shapes.items()), version("timm"), version("torchvision")])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _fitting(shapes: Shapes) -> list[str]:
    """Compare names and shapes with the index, then with the networks themselves."""
    wanted = names_hash(shapes)
    likely = [entry for entry in _index() if entry.names == wanted and entry.fits(shapes)]
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


def _distinct(checkpoint: Checkpoint, architectures: list[str]) -> list[str]:
    """Keep the first of those that compute the same function of the same weights."""
    if len(architectures) < 2:
        return architectures
    import torch

    kept: list[str] = []
    outputs: list[torch.Tensor] = []
    for architecture in architectures:
        model = adapted(architecture, shapes_of(checkpoint))
        load_tensors(model, checkpoint)
        model.float().eval()
        size = input_size(model, checkpoint)
        image = torch.randn((1, *size), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            output = model(image)
        scale = output.abs().max()
        if not any(
            output.shape == other.shape and (output - other).abs().max() <= 1e-5 * scale
            for other in outputs
        ):
            kept.append(architecture)
            outputs.append(output)
    return kept
