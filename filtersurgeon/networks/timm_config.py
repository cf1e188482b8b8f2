"""``config.json``: how a folder describes its network to timm."""

from __future__ import annotations

from typing import Any

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.folder import ENTRY
from filtersurgeon.checkpoint.naming import is_factory, split_arguments
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.fitting import fits, name_mismatch, shapes_of
from filtersurgeon.networks.signature import Fingerprint, read_index, stem_channels
from filtersurgeon.networks.skeleton import make
from filtersurgeon.networks.structure import replay

_SHOWN_BY_SHAPES = {"global_pool", "in_chans", "num_classes"}
"""Arguments with which a network fits its fingerprint, or whose shapes do not."""


def folder_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Describe the network as timm's ``config.json`` does.

    Args:
        checkpoint: its architecture is stated.
    """
    plain, own = split_arguments(checkpoint.architecture or "")
    known = (e for e in read_index().entries if e.architecture == plain)
    entry = next(known, None)
    cfg = dict(checkpoint.pretrained_cfg or {})
    config: dict[str, Any] = {"architecture": plain.removeprefix("timm:")}
    classes, channels = _classes_and_channels(checkpoint, entry)
    if classes or "num_classes" in cfg:
        config["num_classes"] = classes or cfg["num_classes"]
    arguments = _entry_arguments(checkpoint, entry)
    if arguments is not None:
        config |= {"architecture": ENTRY, "model_args": arguments}
    else:
        if channels not in (None, 3):
            own = {**own, "in_chans": channels}
            cfg["first_conv"] = None  # else timm would adapt weights that fit already
        if own:
            config["model_args"] = own
    return {**config, "pretrained_cfg": cfg}


def _entry_arguments(checkpoint: Checkpoint, entry: Fingerprint | None) -> dict[str, Any] | None:
    """Describe a network that timm cannot make by itself, for this package's entry in timm.

    Returns:
        The arguments, or None for a network that timm makes, or that this package's entry does
        not make either.
    """
    architecture, shapes = checkpoint.architecture or "", shapes_of(checkpoint)
    of_timm = architecture.startswith("timm:")
    known = split_arguments(architecture)[1].keys() <= _SHOWN_BY_SHAPES
    fitting = known and entry is not None and entry.fits(shapes)
    if not checkpoint.structure and of_timm and fitting:
        return None
    try:
        if not checkpoint.structure and of_timm and fits(architecture, shapes):
            return None
        base = make(architecture)
        replay(base, checkpoint.structure)
    except ArchitectureError:
        return None
    if is_factory(architecture) or name_mismatch(base, shapes):
        return None
    own = shapes_of(base)
    changed = {name: list(shape) for name, shape in shapes.items() if own[name] != shape}
    # Without the number of filters, theirs does not tell the number of input channels.
    filters = [name.replace(".which", ".filters") for name in changed if name.endswith(".which")]
    changed |= {name: list(shapes[name]) for name in filters if name in shapes}
    structure = [dict(edit) for edit in checkpoint.structure]
    arguments = {"base": architecture, "shapes": changed, "structure": structure}
    return {name: value for name, value in arguments.items() if value}


def _classes_and_channels(
    checkpoint: Checkpoint, entry: Fingerprint | None
) -> tuple[int | None, int | None]:
    """Read the number of classes and of input channels off the tensors, where they are known."""
    if entry is None:
        return None, None
    shapes = shapes_of(checkpoint)
    heads = [shapes[f"{x}.weight"][0] for x in entry.classifier if f"{x}.weight" in shapes]
    stems = [count for x in entry.stem if (count := stem_channels(shapes, x)) is not None]
    return next(iter(heads), None), next(iter(stems), None)
