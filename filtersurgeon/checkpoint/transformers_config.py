"""Folders of transformers: the architecture and the preprocessing that their JSON files tell.

Nothing of transformers is imported here, and no code that a folder names or holds is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filtersurgeon.checkpoint.naming import with_arguments

PREPROCESSING = "preprocessor_config.json"
LIBRARY = "transformers"

_LEFT_OUT = frozenset(
    {
        *("architectures", "auto_map", "custom_pipelines", "id2label", "label2id", "model_type"),
        *("dtype", "torch_dtype", "transformers_version", "finetuning_task"),
        *("task_specific_params", "use_pretrained_backbone", "backbone_kwargs"),
    }
)
"""What does not shape the network, names code, or lets it load other weights."""

_RESAMPLINGS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}


def is_transformers_config(config: Mapping[str, Any]) -> bool:
    """Tell whether a ``config.json`` describes a network of transformers, and none of timm."""
    classes = config.get("architectures")
    return (
        isinstance(config.get("model_type"), str)
        and "architecture" not in config
        and isinstance(classes, list)
        and len(classes) == 1
        and isinstance(classes[0], str)
        and classes[0].isidentifier()
    )


def transformers_architecture(config: Mapping[str, Any]) -> str:
    """Give the architecture of a ``config.json``, ``transformers:CLASS(argument=value, ...)``.

    Raises:
        ArchitectureError: a value of the configuration cannot be an argument.
    """
    arguments = {
        key: value
        for key, value in config.items()
        if key not in _LEFT_OUT and not key.startswith("_") and value is not None
    }
    labels = config.get("id2label")
    if isinstance(labels, Mapping) and "num_labels" not in arguments:
        arguments["num_labels"] = len(labels)
    return with_arguments(f"{LIBRARY}:{config['architectures'][0]}", arguments)


def transformers_preprocessing(
    config: Mapping[str, Any], preprocessing: Mapping[str, Any]
) -> dict[str, Any]:
    """Translate the preprocessing of transformers into timm's words.

    Args:
        config: of the network, ``config.json``.
        preprocessing: of its images, ``preprocessor_config.json``; may be empty.

    Returns:
        The entries of a ``pretrained_cfg`` that are known.
    """
    cfg: dict[str, Any] = {}
    sides = _sides(preprocessing.get("crop_size") if preprocessing.get("do_center_crop") else None)
    resized = _sides(preprocessing.get("size"))
    size = _sides(config.get("image_size")) or sides or resized
    if size:
        channels = config.get("num_channels")
        cfg["input_size"] = [channels if isinstance(channels, int) else 3, *size]
    for word, key in (("mean", "image_mean"), ("std", "image_std")):
        if preprocessing.get("do_normalize", True) and _are_numbers(preprocessing.get(key)):
            cfg[word] = preprocessing[key]
    if preprocessing and preprocessing.get("do_normalize") is False:
        cfg |= {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    resampling = preprocessing.get("resample")
    if type(resampling) is int and resampling in _RESAMPLINGS:
        cfg["interpolation"] = _RESAMPLINGS[resampling]
    part = preprocessing.get("crop_pct")
    if isinstance(part, int | float) and 0 < part <= 1:
        cfg["crop_pct"] = part
    elif sides and resized:
        cfg["crop_pct"] = min(1.0, min(sides) / min(resized))
    elif resized:
        cfg |= {"crop_pct": 1.0, "crop_mode": "squash"}
    return cfg


def _sides(size: Any) -> list[int] | None:
    """Read height and width from one of the forms in which transformers writes sizes."""
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        size = [size.get("height", edge), size.get("width", edge)]
    if type(size) is int:
        size = [size, size]
    if not isinstance(size, list) or len(size) != 2:
        return None
    return size if all(type(side) is int and side > 0 for side in size) else None


def _are_numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and bool(values)
        and all(type(value) in (int, float) for value in values)
    )
