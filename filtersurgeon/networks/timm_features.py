"""Maps at several depths of a changed network, as timm's ``features_only`` gives them."""

from __future__ import annotations

from typing import Any

from timm.models._features import FeatureGetterNet
from torch import nn

from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.proof import output_shapes

OPTIONS = ("out_indices", "output_fmt", "norm")


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the options of ``timm.create_model`` into those of the extraction and the network's."""
    ours = {name: value for name, value in options.items() if name in OPTIONS}
    return ours, {name: value for name, value in options.items() if name not in ours}


def check_features(model: nn.Module, base: str) -> None:
    """Refuse a network that cannot give its intermediate maps.

    Raises:
        ArchitectureError: it has no ``forward_intermediates``.
    """
    if not hasattr(model, "forward_intermediates"):
        raise ArchitectureError(
            f"features_only needs forward_intermediates, which {base} does not have; "
            "create the network without it and take its maps by forward hooks"
        )


def with_features(model: nn.Module, options: dict[str, Any], channels: int) -> nn.Module:
    """Wrap a network so that it gives its maps, and so that these are described as they are.

    Args:
        model: a network with ``forward_intermediates``.
        options: ``out_indices`` (all depths if left out), ``output_fmt``, ``norm``.
        channels: of its input.
    """
    options = {"out_indices": tuple(range(len(model.feature_info))), **options}  # type: ignore[arg-type]
    cfg: Any = model.pretrained_cfg
    features = FeatureGetterNet(model, **options)
    size = (channels, *cfg["input_size"][1:])
    shapes = output_shapes(features, size)
    axis = 1 if str(options.get("output_fmt", "NCHW")).upper() == "NCHW" else -1
    for index, shape in zip(features.feature_info.out_indices, shapes, strict=True):
        features.feature_info.info[index]["num_chs"] = shape[axis]
    left_out = ("num_classes", "classifier", "global_pool")
    features.pretrained_cfg = {key: value for key, value in cfg.items() if key not in left_out}
    features.default_cfg = features.pretrained_cfg
    return features
