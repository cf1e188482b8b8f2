"""Modules whose weights are made of parts by norms, masks and parametrizations of torch."""

from __future__ import annotations

import warnings
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def list_joined(module: nn.Module) -> list[str]:
    """Name the parameters of a module that are made of parts on every pass, such as ``weight``."""
    from torch.nn.utils import parametrize

    names = [_name_of(hook) for hook in _hooks(module)]
    if parametrize.is_parametrized(module):
        names += list(module.parametrizations)  # type: ignore[arg-type]
    return list(dict.fromkeys(names))


def modules_in_parts(model: nn.Module) -> dict[str, list[str]]:
    """Name the modules with parameters that are made of parts, and these parameters."""
    found = {name: list_joined(module) for name, module in model.named_modules()}
    return {name: parameters for name, parameters in found.items() if parameters}


def weight_tensors(module: nn.Module) -> list[str]:
    """Name the tensors of a module that its weight is stored in."""
    if "weight" not in list_joined(module):
        return ["weight"]
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return [x for x in own if x.startswith(("weight_", "parametrizations.weight."))]


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """Give the shape of a module's weight, which may be stored in parts."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shapes = [tuple(own[name].shape) for name in weight_tensors(module)]
    return max(shapes, key=prod)


def keeps_weight(module: nn.Module) -> bool:
    """Tell whether a module's weight stays as it is in training while its parts do."""
    from torch.nn.utils import parametrizations, prune
    from torch.nn.utils.weight_norm import WeightNorm

    if not all(isinstance(x, WeightNorm | prune.BasePruningMethod) for x in _hooks(module)):
        return False
    made_by = getattr(module, "parametrizations", {})
    steps = [step for steps in dict(made_by).values() for step in steps]
    return all(isinstance(step, parametrizations._WeightNorm) for step in steps)


def make_plain(module: nn.Module) -> None:
    """Give a module ordinary parameters instead of parts, of the values that it computes with."""
    import torch
    from torch import nn
    from torch.nn.utils import parametrize

    training = module.training
    module.eval()
    for hook in reversed(_hooks(module)):
        _remove(module, hook)
    if parametrize.is_parametrized(module):
        _separate_class(module)
    for name in list_joined(module):
        with torch.no_grad():
            value = getattr(module, name).detach().clone()
        parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        module._buffers.pop(name, None)
        module.__dict__.pop(name, None)
        module.register_parameter(name, nn.Parameter(value))
    module.train(training)


def _separate_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own.

    Removing a parametrization removes a property of the class, which copies of the module share.
    """
    kind = type(module)
    content = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, content)


def make_all_plain(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Do so for every module of a network; gives their names, and those of the parameters."""
    found = modules_in_parts(model)
    for name in found:
        make_plain(model.get_submodule(name))
    return {name: tuple(parameters) for name, parameters in found.items()}


def refresh(model: nn.Module) -> None:
    """Compute again what hooks make of parts, which they otherwise do on the next pass only."""
    import torch

    for module in model.modules():
        for hook in _hooks(module):
            with torch.no_grad():
                setattr(module, _name_of(hook), _compute(hook, module).detach())


def _hooks(module: nn.Module) -> list[Any]:
    from torch.nn.utils import prune
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    kinds = (WeightNorm, SpectralNorm, prune.BasePruningMethod)
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, kinds)]


def _name_of(hook: Any) -> str:
    return str(getattr(hook, "name", None) or hook._tensor_name)


def _compute(hook: Any, module: nn.Module) -> Tensor:
    from torch.nn.utils import prune
    from torch.nn.utils.spectral_norm import SpectralNorm

    made: Tensor
    if isinstance(hook, prune.BasePruningMethod):
        made = hook.apply_mask(module)
    elif isinstance(hook, SpectralNorm):
        made = hook.compute_weight(module, do_power_iteration=False)
    else:
        made = hook.compute_weight(module)
    return made


def _remove(module: nn.Module, hook: Any) -> None:
    from torch.nn.utils import prune, remove_spectral_norm, remove_weight_norm
    from torch.nn.utils.spectral_norm import SpectralNorm

    name = _name_of(hook)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these are older forms
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, name)
        else:
            remove_weight_norm(module, name)
