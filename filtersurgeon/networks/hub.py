"""Networks by name, pretrained or not, through the loaders of timm, torchvision and the hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.naming import FACTORY, add_prefix, is_factory, with_arguments
from filtersurgeon.checkpoint.sources import timm_arguments
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.errors import ArchitectureError, CheckpointError, near_misses
from filtersurgeon.networks.failing import reason
from filtersurgeon.networks.skeleton import skeleton

if TYPE_CHECKING:
    from torch import nn


def load_timm(name: str) -> Checkpoint:
    """Load ``timm:NAME`` with its pretrained weights.

    Raises:
        ArchitectureError: timm knows no such network, or has no weights for it.
        CheckpointError: the weights cannot be had.
    """
    from filtersurgeon.checkpoint.vision import import_timm

    timm = import_timm()
    known = timm.list_models(pretrained=True)
    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise ArchitectureError(
            f"timm has no network called {name!r}{near_misses(name, timm.list_models())}"
        )
    if not timm.models.is_model_pretrained(name):
        raise ArchitectureError(
            f"timm has no pretrained weights for {name!r}"
            f"{near_misses(name, [k for k in known if k.startswith(base[:4])])}"
        )
    model = _download(f"timm:{name}", lambda: timm.create_model(name, pretrained=True))
    return _from_module(model, f"timm:{name}", f"timm:{base}", dict(model.pretrained_cfg))


def load_hf_hub(name: str) -> Checkpoint:
    """Load ``hf-hub:NAME``, a repository in timm's layout, through timm's loader."""
    from filtersurgeon.checkpoint.vision import import_timm

    timm = import_timm()
    spec = f"hf-hub:{name}"
    model = _download(spec, lambda: timm.create_model(spec, pretrained=True))
    cfg = dict(model.pretrained_cfg)
    surgery = getattr(model, "surgery", None) or {"base": _hub_architecture(name)}
    found = _from_module(model, spec, surgery["base"], cfg)
    return replace(found, structure=tuple(surgery.get("structure", ())))


def _hub_architecture(name: str) -> str:
    """Give the architecture of a repository that timm has just loaded, with its arguments."""
    from timm.models import load_model_config_from_hf

    cfg, architecture, arguments = load_model_config_from_hf(name)
    return with_arguments(f"timm:{architecture}", timm_arguments(arguments or {}, cfg))


def load_torchvision(name: str) -> Checkpoint:
    """Load ``torchvision:NAME`` with its default weights.

    Raises:
        ArchitectureError: torchvision knows no such network.
        CheckpointError: the weights cannot be had.
    """
    from filtersurgeon.checkpoint.vision import import_torchvision

    models = import_torchvision().models
    if name not in models.list_models():
        raise ArchitectureError(
            f"torchvision has no network called {name!r}{near_misses(name, models.list_models())}"
        )
    spec = f"torchvision:{name}"
    model = _download(spec, lambda: models.get_model(name, weights="DEFAULT"))
    preset = models.get_model_weights(name).DEFAULT.transforms()
    cfg = {
        "input_size": [3, *preset.crop_size * 2][:3],
        "crop_pct": preset.crop_size[0] / preset.resize_size[0],
        "interpolation": preset.interpolation.value,
        "mean": list(preset.mean),
        "std": list(preset.std),
    }
    return _from_module(model, spec, spec, cfg)


def _download(spec: str, load: Callable[[], Any]) -> Any:
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it would report every retry
    try:
        return load()
    except Exception as error:
        raise CheckpointError(f"cannot get {spec}: {_why(error)}") from error


_ABSENT = ("RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError")
_RESTRICTED = ("GatedRepoError",)
_UNREACHABLE = (
    "ConnectError", "ConnectionError", "ConnectTimeout", "HfHubHTTPError", "HTTPError",
    "LocalEntryNotFoundError", "MaxRetryError", "OfflineModeIsEnabled", "ProxyError",
    "ReadTimeout", "SSLError", "URLError", "gaierror",
)  # fmt: skip
"""Classes of what the loaders and their HTTP clients raise, by name: they differ by version."""


def _why(error: BaseException) -> str:
    """Say in words of this package why a download failed, and what to do."""
    found: BaseException | None = error
    names = set()
    while found is not None:
        names |= {kind.__name__ for kind in type(found).__mro__}
        found = found.__cause__ or found.__context__
    if names.intersection(_RESTRICTED):
        return "its owner restricts access; log in with `hf auth login`, or give a local file"
    if names.intersection(_ABSENT):
        return "the hub has no such network, or access is restricted; check the name"
    if names.intersection(_UNREACHABLE) or isinstance(error, ConnectionError | TimeoutError):
        return "no network connection, and no copy in the cache; give a local file"
    return f"{reason(error, _ROOM)}; give a local file"


_ROOM = 80


def _from_module(model: Any, name: str, architecture: str, cfg: dict[str, Any]) -> Checkpoint:
    state = model.state_dict()
    return Checkpoint(
        {key: from_torch(tensor, key) for key, tensor in state.items()},
        name,
        architecture=architecture,
        pretrained_cfg={k: v for k, v in cfg.items() if is_plain(v)},
    )


def is_plain(value: object) -> bool:
    """Tell whether a value is JSON by itself: words, numbers, and lists of them."""
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return isinstance(value, str | int | float | bool) or value is None


def untrained(architecture: str, *, seed: int = 0, **options: Any) -> Checkpoint:
    """Make a randomly initialised checkpoint of an architecture; downloads nothing.

    Args:
        architecture: ``timm:NAME``, ``torchvision:NAME`` or ``factory:MODULE:FUNCTION``.
        seed: of the initialisation.
        options: passed to the library, such as ``num_classes`` and ``in_chans`` for timm.

    Raises:
        ArchitectureError: no library knows it, or it cannot be made so.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> checkpoint["conv1.0.weight"].array().shape
        (16, 3, 3, 3)
    """
    import torch

    name = add_prefix(architecture)
    if not name:
        raise ArchitectureError("name an architecture, such as timm:resnet18")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = skeleton(name, on_meta=False, **options)
    tensors = {key: from_torch(tensor, key) for key, tensor in model.state_dict().items()}
    named = {FACTORY: name.partition(":")[2]} if is_factory(name) else {}
    return Checkpoint(
        tensors, name, architecture=name, pretrained_cfg=_description(model), annotations=named
    )


def _description(model: nn.Module) -> dict[str, Any] | None:
    cfg = getattr(model, "pretrained_cfg", None) or {}
    described = {key: value for key, value in dict(cfg).items() if is_plain(value)}
    classes = getattr(model, "num_classes", None)
    if described and isinstance(classes, int):
        described["num_classes"] = classes
    return described or None
