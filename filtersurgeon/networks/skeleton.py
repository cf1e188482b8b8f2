"""The module tree of an architecture, without memory for its parameters."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.naming import split_arguments
from filtersurgeon.errors import (
    ArchitectureError,
    FilterSurgeonError,
    near_misses,
    ran_out_of_memory,
)
from filtersurgeon.networks.failing import describe_failure
from filtersurgeon.networks.in_memory import InMemory
from filtersurgeon.networks.inputs import Called, call_with

if TYPE_CHECKING:
    from torch import nn


MOST_PARAMETERS = 10_000
"""Parameter tensors of a network of a library; the largest of timm have a few thousand.

A file names the arguments of its network, such as the number of blocks.
"""


class _EndlessNetworkError(ArchitectureError):
    """A network that would not be made in a reasonable time, in whatever way it is made."""


def make(architecture: str, **options: Any) -> nn.Module:
    """Make a network whose every tensor but its parameters is real.

    Some networks read their parameters' device while they are made, and so end up with buffers on
    the meta device or fail; those are made the ordinary way, with initialised parameters.
    """
    try:
        model = skeleton(architecture, **options)
    except _EndlessNetworkError:
        raise
    except ArchitectureError:
        model = skeleton(architecture, on_meta=False, **options)
    if any(_unreal(module) for module in model.modules()):
        model = skeleton(architecture, on_meta=False, **options)
    return model


def _unreal(module: nn.Module) -> bool:
    import torch

    loose = (value for value in vars(module).values() if isinstance(value, torch.Tensor))
    return any(tensor.is_meta for tensor in (*module.buffers(recurse=False), *loose))


def skeleton(architecture: str, *, on_meta: bool = True, **options: Any) -> nn.Module:
    """Make the module tree of an architecture.

    Args:
        architecture: ``timm:NAME``, ``torchvision:NAME``, or ``factory:MODULE:FUNCTION`` for a
            function of the user's; arguments may follow in brackets.
        on_meta: spend no memory and no work on parameters; buffers and other tensors that the
            network computes for itself are real nevertheless.
        options: passed to the library, such as ``num_classes`` and ``in_chans`` for timm.

    Raises:
        ArchitectureError: the libraries know no such network, or cannot make it so.
    """
    if isinstance(architecture, InMemory):
        if options:
            raise ArchitectureError(f"{architecture} is a module in memory, and takes no arguments")
        return architecture.make(on_meta=on_meta)
    stated, arguments = split_arguments(architecture)
    library, _, name = stated.partition(":")
    makers = {
        "timm": _timm,
        "torchvision": _torchvision,
        "transformers": _transformers,
        "factory": _factory,
    }
    if library not in makers or not name:
        raise ArchitectureError(
            f"architecture {architecture!r} should read timm:NAME or torchvision:NAME"
        )
    most = None if library == "factory" else MOST_PARAMETERS
    with parameters_on_meta(most) if on_meta else nullcontext():
        made = makers[library](name, {**arguments, **options})
    return call_with(made, architecture.inputs) if isinstance(architecture, Called) else made


def _timm(name: str, options: dict[str, Any]) -> nn.Module:
    from filtersurgeon.checkpoint.vision import import_timm

    timm = import_timm()
    if not timm.is_model(name):
        raise ArchitectureError(
            f"timm has no network called {name!r}{near_misses(name, timm.list_models())}"
        )
    return _make(f"timm:{name}", lambda: timm.create_model(name, pretrained=False, **options))


def _torchvision(name: str, options: dict[str, Any]) -> nn.Module:
    from filtersurgeon.checkpoint.vision import import_torchvision

    models = import_torchvision().models
    known = models.list_models()
    if name not in known:
        raise ArchitectureError(
            f"torchvision has no network called {name!r}{near_misses(name, known)}"
        )
    return _make(f"torchvision:{name}", lambda: models.get_model(name, weights=None, **options))


def _transformers(name: str, options: dict[str, Any]) -> nn.Module:
    from filtersurgeon.checkpoint.vision import import_torchvision

    import_torchvision()  # which transformers looks for
    try:
        transformers = import_module("transformers")
    except ImportError as error:
        raise ArchitectureError(
            f"{name} is a network of transformers, which cannot be imported ({error}): "
            "pip install transformers"
        ) from None
    kind = getattr(transformers, name, None)
    base = getattr(transformers, "PreTrainedModel", None)
    if not (isinstance(kind, type) and base and issubclass(kind, base)):
        raise ArchitectureError(
            f"transformers {transformers.__version__} has no network called {name!r}"
        )
    network: Any = kind
    return _make(f"transformers:{name}", lambda: network(network.config_class(**options)))


def _factory(name: str, options: dict[str, Any]) -> nn.Module:
    from torch import nn

    from filtersurgeon.networks.scripted import replace_scripted

    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ArchitectureError(f"factory {name} should read MODULE:FUNCTION, such as mynet:make")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does; a console script does not
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if function_name and module_name.endswith(".py"):
            right = module_name.removesuffix(".py").replace("/", ".")
            raise ArchitectureError(
                f"factory {name} should name a module, not a file; did you mean "
                f"{right}:{function_name}?"
            ) from error
        missing = error.name or module_name
        where = "the working directory or the environment"
        raise ArchitectureError(f"factory {name}: no module {missing} in {where}") from error
    except Exception as error:  # whatever the user's file raises when it is read
        raise ArchitectureError(
            describe_failure(f"cannot import {module_name}: ", error)
        ) from error
    function = getattr(module, function_name, None)
    if function is None:
        hint = near_misses(function_name, [x for x in vars(module) if x[:1] != "_"])
        raise ArchitectureError(f"factory {name}: {module_name} has no {function_name}{hint}")
    model = _make(f"factory:{name}", lambda: function(**options))
    if not isinstance(model, nn.Module):
        raise ArchitectureError(f"factory {name} made a {type(model).__name__}, no torch module")
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # the wrapper runs in a group of processes only
    elif isinstance(model, nn.DataParallel):
        model.device_ids = []  # the names stay, and it runs where its tensors are
    return replace_scripted(model)


def _make(architecture: str, maker: Any) -> nn.Module:
    try:
        model: nn.Module = maker()
    except FilterSurgeonError:
        raise  # of this package's own entry in timm
    except Exception as error:  # whatever the library's or the user's code raises
        if ran_out_of_memory(error):
            raise
        raise ArchitectureError(describe_failure(f"cannot make {architecture}: ", error)) from error
    except SystemExit:
        raise ArchitectureError(f"cannot make {architecture}: its code ends the process") from None
    return model


@contextmanager
def parameters_on_meta(most: int | None = None) -> Iterator[None]:
    """Move every parameter to the meta device as its module registers it.

    Initialisation then costs nothing, while buffers and constants stay real, unlike under
    ``torch.device("meta")``.

    Args:
        most: parameter tensors that may be registered; None for any number.

    Raises:
        ArchitectureError: there are more.
    """
    from torch import nn

    register, count = nn.Module.register_parameter, 0

    def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        nonlocal count
        count += 1
        if most is not None and count > most:
            raise _EndlessNetworkError(
                f"the network would have more than {most:,} parameter tensors, as the arguments "
                "of its architecture say; pass another one with `arch`"
            )
        # A tied parameter is registered twice and must stay one object.
        if param is not None and not param.is_meta:
            param = type(param)(param.to("meta"), requires_grad=param.requires_grad)
        register(module, name, param)

    nn.Module.register_parameter = register_on_meta  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
