"""The one entry in timm's table of networks: any pruned or converted network.

A folder's ``config.json`` names it as its architecture, with ``model_args`` that hold the original
network (``base``), the shapes that differ from it, and the edits of its module tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from timm.models import PretrainedCfg, is_model, load_pretrained, register_model
from timm.models._features import FeatureGetterNet
from torch import nn

from filtersurgeon.checkpoint.naming import is_factory
from filtersurgeon.checkpoint.sources import ENTRY
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.dry_run import check_runs, output_shapes
from filtersurgeon.networks.fitting import adaptations, shapes_of
from filtersurgeon.networks.resizing import follow, restructure
from filtersurgeon.networks.signature import Shapes, adaptable_modules, stem_channels
from filtersurgeon.networks.skeleton import make, skeleton
from filtersurgeon.networks.structure import replay
from filtersurgeon.networks.structure.replay import settle_constants

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


__all__: list[str] = []
SOURCES = ("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load")


def register() -> None:
    """Make the entry, if timm does not have it yet."""
    if not is_model(ENTRY):
        register_model(filtersurgeon)


def filtersurgeon(
    pretrained: bool = False,
    *,
    base: str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    structure: Sequence[Mapping[str, Any]] = (),
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    pretrained_model_args: Any = None,  # noqa: ARG001 - the arguments above, a second time
    cache_dir: Any = None,
    features_only: bool = False,
    **kwargs: Any,
) -> nn.Module:
    """Make a pruned or converted network; what ``timm.create_model`` calls.

    ``num_classes``, ``in_chans``, ``global_pool``, ``drop_rate`` and whatever else the changed
    network's own entry takes mean what they mean there. ``features_only`` works for networks of
    timm with ``forward_intermediates``.

    Args:
        pretrained: load the weights that ``pretrained_cfg`` tells.
        base: ``timm:NAME`` or ``torchvision:NAME``, the network that was changed.
        shapes: tensor -> shape, where they differ from the base's.
        structure: edits of the module tree.
        pretrained_cfg: timm's description of the weights; what it leaves out is the base's.
        pretrained_cfg_overlay: entries that replace some of these.
        pretrained_model_args: not needed.
        cache_dir: where timm keeps downloads.
        features_only: give the maps at several depths instead of classes.
        kwargs: of the base, or of the extraction of features.

    Raises:
        ArchitectureError: it was called without a network, or features cannot be had.
        CheckpointError: the edits do not suit the base.
    """
    if not isinstance(base, str) or is_factory(base):
        raise ArchitectureError(
            f"timm's entry {ENTRY!r} needs a directory: timm.create_model('local-dir:FOLDER', "
            "pretrained=True); open a file with filtersurgeon.build(filtersurgeon.load(FILE))"
        )

    feature_options, options = split_options(kwargs) if features_only else ({}, kwargs)
    changes = {name: tuple(shape) for name, shape in (shapes or {}).items()}
    model, source = _make_changed(base, changes, structure, options)
    if features_only:
        check_features(model, base)
    cfg = _describe(source, changes, pretrained_cfg, pretrained_cfg_overlay)
    model.pretrained_cfg = model.default_cfg = cfg  # type: ignore[assignment]
    model.surgery = {"base": base, "structure": list(structure)}  # type: ignore[assignment]
    channels = options.get("in_chans", cfg["input_size"][0])
    check_runs(model, [(channels, *cfg["input_size"][1:])])
    settle_constants(model)
    if pretrained:
        classes = options.get("num_classes", cfg["num_classes"])
        cache = {"cache_dir": cache_dir} if cache_dir is not None else {}  # older timm has none
        load_pretrained(model, cfg, num_classes=classes, in_chans=channels, **cache)
    return with_features(model, feature_options, channels) if features_only else model


def _make_changed(
    base: str,
    changes: Shapes,
    structure: Sequence[Mapping[str, Any]],
    options: dict[str, Any],
) -> tuple[nn.Module, nn.Module]:
    """Make the network, initialised, with other classes and input channels if options say so.

    Returns:
        The network, and the base with the folder's classes and input channels, without data.
    """
    plain = make(base)
    own_options = adaptations(plain, base, {**shapes_of(plain), **changes})
    source, edited = make(base, **own_options), make(base, **own_options)
    replay(edited, structure)
    model = skeleton(base, on_meta=False, **{**own_options, **options})
    wanted = follow(shapes_of(model), shapes_of(source), {**shapes_of(edited), **changes})
    restructure(model, structure, wanted)
    return model, source


def _describe(
    source: nn.Module, changes: Shapes, given: Any, overlay: dict[str, Any] | None
) -> dict[str, Any]:
    """Complete timm's description of the weights by what the base tells."""
    given = given.to_dict() if isinstance(given, PretrainedCfg) else given or {}
    own = getattr(source, "pretrained_cfg", None) or {}
    heads, stems = adaptable_modules(source)
    shapes = {**shapes_of(source), **changes}
    cfg = {
        "classifier": heads,
        "first_conv": stems,
        **{key: value for key, value in own.items() if key not in SOURCES},
        **{key: value for key, value in given.items() if value is not None},
        "architecture": ENTRY,
    }
    channels = (stem_channels(shapes, stems[0]) if stems else None) or 3
    cfg["input_size"] = (channels, *(cfg.get("input_size") or (3, 224, 224))[1:])
    head = shapes.get(f"{heads[0]}.weight", (0,)) if heads else (cfg.get("num_classes", 0),)
    cfg["num_classes"] = head[0]
    return {**cfg, **(overlay or {})}


register()
