"""Modules in memory opened as checkpoints, and given back as modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.errors import ArchitectureError, CheckpointError, OptionError
from filtersurgeon.networks.arguments import describe_mismatch
from filtersurgeon.networks.build import build
from filtersurgeon.networks.fitting import name_mismatch, shapes_of
from filtersurgeon.networks.in_memory import InMemory, Inputs, copy_module, unbind
from filtersurgeon.networks.prefixes import fit_names
from filtersurgeon.networks.structure.plain_weights import list_joined

if TYPE_CHECKING:
    from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


def open_module(
    module: nn.Module, example_inputs: Any = None, tensors: Mapping[str, Tensor] | None = None
) -> Checkpoint:
    """Give the checkpoint of a module in memory; later changes of the module do not change it.

    Args:
        module: any module.
        example_inputs: a tensor, a tuple of positional arguments, a dict of keyword arguments, or
            the size of an image without the axis of the batch; None for the usual sizes.
        tensors: other tensors for the module, by name.

    Raises:
        ArchitectureError: the module has no data.
        OptionError: its forward needs other inputs, or they are on another device.
    """
    from torch import Tensor

    module = unwrap(module)
    name = type(module).__name__
    held = InMemory(f"module:{name}")
    given = module.state_dict() if tensors is None else tensors
    if tensors is not None:
        _check_tensors(tensors)
    empty = [key for key, tensor in given.items() if isinstance(tensor, Tensor) and tensor.is_meta]
    if empty:
        raise ArchitectureError(
            f"{empty[0]} of {name} has a shape but no data (meta device); load its tensors first"
        )
    held.inputs, held.size = _read_inputs(module, example_inputs)
    held.module = copy_module(module, on_meta=True)
    stored = {
        key: from_torch(tensor.detach().cpu().clone(), key)
        for key, tensor in given.items()
        if isinstance(tensor, Tensor)
    }
    stated = getattr(module, "pretrained_cfg", None)
    config = dict(stated) if isinstance(stated, Mapping) else {}
    if held.size is not None:
        config["input_size"] = list(held.size)
    made = Checkpoint(stored, name=name, architecture=held, pretrained_cfg=config or None)
    return made if tensors is None else _fit(made, module)


def _check_tensors(state: Mapping[str, Any]) -> None:
    """Refuse what is no state dict, such as what a trainer stores beside one."""
    from torch import Tensor

    others = [
        key
        for key, value in state.items()
        if not isinstance(value, Tensor) and not key.endswith("_extra_state")
    ]
    inside = [key for key in others if isinstance(state[key], Mapping) and state[key]]
    if inside and len(others) == len(state):
        raise OptionError(
            f"this dict holds no tensors, but dicts such as {inside[0]!r}; "
            f"load its entry {inside[0]!r} instead"
        )
    if others:
        kind = type(state[others[0]]).__name__
        raise OptionError(
            f"{others[0]!r} of the state dict is of type {kind}; leave out what is no tensor"
        )


def _fit(checkpoint: Checkpoint, module: nn.Module) -> Checkpoint:
    """Give the tensors of a state dict the names of the module, or refuse them."""
    try:
        found = fit_names(checkpoint)
    except CheckpointError:
        raise ArchitectureError(
            f"the state dict holds several networks like {checkpoint.name}; pass the tensors of one"
        ) from None
    if difference := name_mismatch(module, shapes_of(found)):
        raise ArchitectureError(
            f"the state dict does not fit {checkpoint.name}: {difference}; "
            "pass all that state_dict() of such a module gives, and no more"
        )
    return found


def unwrap(module: nn.Module) -> nn.Module:
    """Give the module inside wrappers for several devices, compiling or averaging."""
    from torch import nn

    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def _read_inputs(
    module: nn.Module, example_inputs: Any
) -> tuple[Inputs | None, tuple[int, ...] | None]:
    """Give the inputs of a network that takes more than an image, and the size of the image."""
    from torch import Tensor

    found = example_inputs
    plain = found is None or isinstance(found, Tensor)
    if isinstance(found, list | tuple) and found and all(type(x) is int for x in found):
        if min(found) < 1:
            raise OptionError(f"`example_inputs` {tuple(found)} is not a size: sides are 1 or more")
        _check_arguments(module, (None,), {})
        return None, tuple(found)
    args = found if isinstance(found, tuple) else () if isinstance(found, Mapping) else (found,)
    kwargs = dict(found) if isinstance(found, Mapping) else {}
    _check_arguments(module, args, kwargs)
    if found is None:
        return None, None
    tensors = list(_tensors((args, kwargs)))
    if not tensors:
        raise OptionError("`example_inputs` should hold a tensor, or be a size such as (3, 32, 32)")
    _check_devices(module, tensors)
    image = max((x for x in tensors if x.is_floating_point()), key=Tensor.dim, default=None)
    if image is None or image.ndim == 0:
        raise OptionError("`example_inputs` should hold a tensor of real numbers with a batch axis")
    if plain or (len(args) == 1 and not kwargs and args[0] is image):
        if image.ndim < 2:
            raise OptionError("`example_inputs` should begin with the axis of the batch")
        return None, tuple(image.shape[1:])
    inputs = Inputs(tuple(args), kwargs, image)
    return inputs, inputs.size


def _tensors(value: Any) -> Iterator[Tensor]:
    from torch import Tensor

    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def _check_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if problem := describe_mismatch(module.forward, len(args), kwargs.keys()):
        raise OptionError(
            f"forward of {type(module).__name__} {problem}; give all its arguments in "
            "`example_inputs`, a tuple or a dict by name"
        )


def _check_devices(module: nn.Module, tensors: list[Tensor]) -> None:
    own = next((x.device for x in (*module.parameters(), *module.buffers())), None)
    for tensor in tensors:
        if own is not None and tensor.device != own:
            raise OptionError(
                f"`example_inputs` are on {tensor.device}, and {type(module).__name__} is on "
                f"{own}; move both to one device"
            )


def as_module(checkpoint: Checkpoint, original: nn.Module, *, copy: bool = True) -> nn.Module:
    """Build the module of an edited checkpoint as its original was.

    Args:
        checkpoint: edited, of :func:`open_module`.
        original: the module that was opened; tells devices, modes, and which parameters train.
        copy: give a new module; else change the original, and give that.
    """
    from filtersurgeon.networks.scripted import Scripted, is_scripted

    original = unwrap(original)
    if is_scripted(original) and not copy:
        raise OptionError("a TorchScript module cannot be changed in place; leave out copy=False")
    made = build(checkpoint)
    unbind(made)
    own = dict(original.named_modules(remove_duplicate=False))
    for name, part in made.named_modules(remove_duplicate=False):
        part.training = own[name].training if name in own else original.training
        if isinstance(part, Scripted):
            part.train(part.training)
    tensors = {**dict(original.named_parameters()), **dict(original.named_buffers())}
    for name, tensor in (*made.named_parameters(), *made.named_buffers()):
        if name in tensors:
            tensor.data = tensor.data.to(tensors[name].device)
            if tensor.is_leaf:
                tensor.requires_grad_(tensors[name].requires_grad)
    if not copy:
        _take_over(original, made)
    return made if copy else original


def _take_over(original: nn.Module, made: nn.Module) -> None:
    """Give a module, in place, the tensors and numbers of another."""
    others = dict(made.named_modules(remove_duplicate=False))
    for name, part in list(original.named_modules(remove_duplicate=False)):
        other = others.get(name)
        if other is None:
            continue
        if _kind(part) != _kind(other) and name:
            parent, _, key = name.rpartition(".")
            setattr(original.get_submodule(parent), key, other)
            continue
        part._parameters, part._buffers = other._parameters, other._buffers
        # What hooks compute of parts lies beside them until the next pass.
        vars(part).update(
            (key, vars(other)[key]) for key in list_joined(other) if key in vars(other)
        )
        for key, value in vars(other).items():
            number = isinstance(value, int | float | tuple | list)
            if number and key != "training" and not key.startswith("_"):
                setattr(part, key, value)


def _kind(part: nn.Module) -> tuple[type, tuple[str, ...]]:
    """Give the class of a module but for its parametrizations, and what these make."""
    from torch.nn.utils.parametrize import is_parametrized

    if is_parametrized(part):
        return type(part).__bases__[0], tuple(part.parametrizations)  # type: ignore[arg-type]
    return type(part), ()


class Transform(Protocol[P]):
    """A function from a checkpoint to a checkpoint, or from a module to a module."""

    @overload
    def __call__(
        self, checkpoint: Checkpoint, /, *args: P.args, **kwargs: P.kwargs
    ) -> Checkpoint: ...
    @overload
    def __call__(
        self,
        module: nn.Module,
        /,
        example_inputs: Any = None,
        *,
        copy: bool = True,
        **options: Any,
    ) -> nn.Module: ...


def transforms_modules(
    function: Callable[Concatenate[Checkpoint, P], Checkpoint],
) -> Transform[P]:
    """Let a transform take a module in memory, ``(module, example_inputs, *, copy, **options)``."""

    @wraps(function)
    def transform(checkpoint: Any, /, *args: Any, **options: Any) -> Any:
        if isinstance(checkpoint, Checkpoint):
            return function(checkpoint, *args, **options)
        example_inputs = options.pop("example_inputs", args[0] if args else None)
        copy = options.pop("copy", True)
        opened = open_module(check_module(checkpoint), example_inputs)
        return as_module(function(opened, *args[1:], **options), checkpoint, copy=copy)

    return transform


class Analyser(Protocol[P, R]):
    """A function of a checkpoint, or of a module in memory."""

    @overload
    def __call__(self, checkpoint: Checkpoint, /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(
        self, module: nn.Module, /, *args: Any, example_inputs: Any = None, **options: Any
    ) -> R: ...


def analyses_modules(function: Callable[Concatenate[Checkpoint, P], R]) -> Analyser[P, R]:
    """Let an analyser take a module in memory, and its ``example_inputs`` by name."""

    @wraps(function)
    def analyse(checkpoint: Any, /, *args: Any, **options: Any) -> Any:
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = as_checkpoint(checkpoint, options.pop("example_inputs", None))
        return function(checkpoint, *args, **options)

    return analyse


class SeveralAnalyser(Protocol[P, R]):
    """A function of several checkpoints or modules in memory, or of one."""

    @overload
    def __call__(
        self, checkpoints: Sequence[Checkpoint], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    def __call__(
        self,
        checkpoints: Sequence[Checkpoint | nn.Module] | Checkpoint | nn.Module,
        /,
        *args: Any,
        example_inputs: Any = None,
        **options: Any,
    ) -> R: ...


def analyses_several(
    function: Callable[Concatenate[Sequence[Checkpoint], P], R],
) -> SeveralAnalyser[P, R]:
    """Let an analyser of several checkpoints take modules among them, or one network alone."""

    @wraps(function)
    def analyse(checkpoints: Any, /, *args: Any, **options: Any) -> Any:
        inputs = options.pop("example_inputs", None)
        listed = [checkpoints] if _is_network(checkpoints) else list(checkpoints)
        return function([as_checkpoint(each, inputs) for each in listed], *args, **options)

    return analyse


class Trainer(Protocol[P, R]):
    """A function that trains a checkpoint, or a module in memory."""

    @overload
    def __call__(
        self, checkpoint: Checkpoint, /, *args: P.args, **kwargs: P.kwargs
    ) -> tuple[Checkpoint, R]: ...
    @overload
    def __call__(
        self,
        module: nn.Module,
        /,
        *args: Any,
        example_inputs: Any = None,
        copy: bool = True,
        **options: Any,
    ) -> tuple[nn.Module, R]: ...


def trains_modules(
    function: Callable[Concatenate[Checkpoint, P], tuple[Checkpoint, R]],
) -> Trainer[P, R]:
    """Let a function that trains take a module, and give a module back with its result."""

    @wraps(function)
    def train(checkpoint: Any, /, *args: Any, **options: Any) -> Any:
        if isinstance(checkpoint, Checkpoint):
            return function(checkpoint, *args, **options)
        inputs, copy = options.pop("example_inputs", None), options.pop("copy", True)
        opened = open_module(check_module(checkpoint), inputs)
        trained, result = function(opened, *args, **options)
        return as_module(trained, checkpoint, copy=copy), result

    return train


class Sweep(Protocol[P, R]):
    """A function that gives several checkpoints, or modules in memory, each with its result."""

    @overload
    def __call__(
        self, checkpoint: Checkpoint, /, *args: P.args, **kwargs: P.kwargs
    ) -> Iterator[tuple[Checkpoint, R]]: ...
    @overload
    def __call__(
        self, module: nn.Module, /, *args: Any, example_inputs: Any = None, **options: Any
    ) -> Iterator[tuple[nn.Module, R]]: ...


def sweeps_modules(
    function: Callable[Concatenate[Checkpoint, P], Iterator[tuple[Checkpoint, R]]],
) -> Sweep[P, R]:
    """Let a function that gives several checkpoints take a module, and give modules."""

    @wraps(function)
    def sweep(checkpoint: Any, /, *args: Any, **options: Any) -> Any:
        if isinstance(checkpoint, Checkpoint):
            return function(checkpoint, *args, **options)
        opened = open_module(check_module(checkpoint), options.pop("example_inputs", None))
        found = function(opened, *args, **options)
        return ((as_module(made, checkpoint), result) for made, result in found)

    return sweep


def as_checkpoint(network: Any, example_inputs: Any = None) -> Checkpoint:
    """Give a checkpoint as it is, and open a module; raises OptionError for anything else."""
    if isinstance(network, Checkpoint):
        return network
    return open_module(check_module(network), example_inputs)


def open_like(network: Any, other: Checkpoint) -> Checkpoint:
    """Open a module that is called as another one is; give a checkpoint as it is."""
    held = other.architecture
    inputs: Any = None
    if isinstance(held, InMemory):
        given = held.inputs
        inputs = held.size if given is None else given.args or dict(given.kwargs)
    return as_checkpoint(network, inputs)


def _is_network(value: Any) -> bool:
    """Tell one network from several; both kinds of networks can be iterated over."""
    from torch import nn

    return isinstance(value, Checkpoint | nn.Module)


def check_module(value: Any) -> nn.Module:
    """Give a module as it is; raises OptionError for anything else."""
    from torch import nn

    if isinstance(value, nn.Module):
        return value
    raise OptionError(f"a checkpoint or a torch module is needed, not {type(value).__name__}")
