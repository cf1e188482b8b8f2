"""A pretended GPU: tensors stay on the CPU, and what a GPU would refuse is refused.

Inside ``pretended_gpus()`` torch seems to have CUDA devices. Every storage is on the CPU or on one
of them. An operator that meets storages of two devices raises ``MixUpError``, and so does
``numpy()``, ``item()``, ``float()``, ``int()`` or ``bool()`` of a tensor on a pretended GPU when
the package calls it: a copy must be asked for by ``cpu()``, ``to()`` or ``tolist()``. Copies and
waits are counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import filtersurgeon
from filtersurgeon.graph import constants
from filtersurgeon.networks import devices

CPU = torch.device("cpu")
PACKAGE = str(Path(filtersurgeon.__file__).parent)
FACTORIES = ("zeros", "ones", "empty", "full", "arange", "linspace", "eye", "tensor", "as_tensor",
             "rand", "randn", "randint", "randperm", "zeros_like", "ones_like", "empty_like",
             "full_like", "rand_like", "randn_like", "empty_strided")  # fmt: skip
NEW = ("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")
WAITING = ("item", "__float__", "__int__", "__bool__", "__index__")
# Operators that take a CPU tensor beside one of a GPU: copies, and indices.
COPIES = {"aten::copy_", "aten::_to_copy", "aten::set_"}
INDEXED = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_",
           "aten::_unsafe_index"}  # fmt: skip


class MixUpError(RuntimeError):
    """What torch refuses on a GPU."""


class Pretended(TorchDispatchMode):
    """Knows where storages are, and checks every operator.

    Attributes:
        counts: copies between devices (``copies``), and times that the host waits (``waits``).
        ran: operators that ran on a pretended GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._places: dict[int, tuple[StorageWeakRef, torch.device]] = {}
        self.counts: Counter[str] = Counter()
        self.ran = 0

    def place(self, tensor: torch.Tensor) -> torch.device:
        """Say where a tensor is."""
        if REAL["is_meta"](tensor):
            return torch.device("meta")
        try:
            found = self._places.get(tensor.untyped_storage()._cdata)
        except (NotImplementedError, RuntimeError):  # sparse tensors and the like
            return CPU
        return CPU if found is None else found[1]

    def put(self, made: Any, device: torch.device) -> Any:
        """Say that tensors are on a device."""
        for tensor in tree_flatten(made)[0]:
            if isinstance(tensor, torch.Tensor) and not REAL["is_meta"](tensor):
                storage = tensor.untyped_storage()
                if device.type == "cpu":
                    self._places.pop(storage._cdata, None)
                else:
                    # The weak reference keeps the address from being used again.
                    self._places[storage._cdata] = (StorageWeakRef(storage), device)
        return made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        tensors = [x for x in tensors if not REAL["is_meta"](x)]
        places = [self.place(x) for x in tensors]
        on_gpu = {place for place in places if place.type != "cpu"}
        target = next(iter(on_gpu), CPU)
        if name in COPIES:
            target = places[0] if places else CPU
            if len(set(places)) > 1:
                self.counts["copies"] += 1
        elif name in INDEXED:
            target = places[0]
            self._refuse_other(name, places[:1], [p for p in places[1:] if p.type != "cpu"])
            self.counts["copies"] += len(on_gpu) and sum(p.type == "cpu" for p in places[1:])
        else:
            met = [p for x, p in zip(tensors, places, strict=True) if p.type != "cpu" or x.ndim]
            self._refuse_other(name, met[:1], met[1:])
        if on_gpu:
            self.ran += 1
            if kwargs.get("generator") is not None:
                raise MixUpError(f"{name}: a generator of the CPU for a tensor on {target}")
            if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal"):
                self.counts["waits"] += 1
        made = func(*args, **kwargs)
        if target.type != "cpu" and (name not in COPIES or name == "aten::_to_copy"):
            self.put(made, target)
        return made

    @staticmethod
    def _refuse_other(name: str, first: list[torch.device], rest: list[torch.device]) -> None:
        other = next((place for place in rest if first and place != first[0]), None)
        if other is not None:
            raise MixUpError(f"{name}: tensors on {first[0]} and {other}")


class _Move(torch.autograd.Function):
    """Copies to a device; the gradient goes back to where the tensor was."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mode: Pretended, device: torch.device) -> torch.Tensor:
        ctx.mode, ctx.before = mode, mode.place(x)
        mode.counts["copies"] += 1
        if device.type == "cpu":
            mode.counts["waits"] += 1
        with _unwatched():
            made = x.clone()
        return mode.put(made, device)

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        with _unwatched():
            made = slopes[0].clone()
        return ctx.mode.put(made, ctx.before), None, None


_unwatched = _python_dispatch._disable_current_modes


REAL: dict[str, Any] = {
    **{name: getattr(torch.Tensor, name) for name in ("to", "cpu", "numpy", "tolist", "get_device",
                                                      "__array__", "__deepcopy__", *WAITING, *NEW)},
    "is_meta": torch.Tensor.is_meta.__get__,
    "device": torch.Tensor.device.__get__,
}  # fmt: skip


def _caller_is_the_package() -> bool:
    """Tell whether the package itself, not torch or another library, asked for a value."""
    frame = sys._getframe(2)
    return frame.f_code.co_filename.startswith(PACKAGE)


def _device_of(words: Any) -> torch.device:
    device = torch.device(words)
    return torch.device("cuda", 0) if device.type == "cuda" and device.index is None else device


def _move(mode: Pretended, x: torch.Tensor, device: torch.device) -> torch.Tensor:
    if mode.place(x) == device or REAL["is_meta"](x):
        return x
    return _Move.apply(x, mode, device)


def _methods(mode: Pretended) -> dict[str, Any]:
    def to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        first = args[0] if args else None
        names = ["dtype", "non_blocking", "copy"]
        if isinstance(first, torch.Tensor):
            args = (mode.place(first), first.dtype, *args[1:])
        if not isinstance(first, torch.dtype):
            names.insert(0, "device")
        words = {**dict(zip(names, args, strict=False)), **kwargs}
        words = {name: value for name, value in words.items() if value is not None}
        target = _device_of(words.pop("device")) if "device" in words else None
        if target is not None and target.type == "meta":
            return REAL["to"](self, *args, **kwargs)
        moved = self if target is None else _move(mode, self, target)
        if moved is not self:
            words.pop("copy", None)
        return REAL["to"](moved, **words) if words else moved

    def cpu(self: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return REAL["cpu"](_move(mode, self, CPU), **kwargs)

    def numpy(self: torch.Tensor, **kwargs: Any) -> Any:
        if mode.place(self).type == "cuda":
            raise MixUpError(f"numpy() of a tensor on {mode.place(self)}; copy it with cpu()")
        return REAL["numpy"](self, **kwargs)

    def array(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if mode.place(self).type == "cuda":
            raise MixUpError(f"an array of a tensor on {mode.place(self)}; copy it with cpu()")
        return REAL["__array__"](self, *args, **kwargs)

    def tolist(self: torch.Tensor) -> Any:
        if mode.place(self).type != "cuda":
            return REAL["tolist"](self)
        mode.counts["waits"] += 1
        with _unwatched():
            return REAL["tolist"](self)

    def deepcopy(self: torch.Tensor, memo: Any) -> Any:
        return mode.put(REAL["__deepcopy__"](self, memo), mode.place(self))

    def waiting(name: str) -> Any:
        def ask(self: torch.Tensor) -> Any:
            if mode.place(self).type == "cuda":
                mode.counts["waits"] += 1
                if _caller_is_the_package():
                    raise MixUpError(f"{name} of a tensor on {mode.place(self)}; use tolist()")
            return REAL[name](self)

        return ask

    return {
        "to": to, "cpu": cpu, "numpy": numpy, "tolist": tolist, "__array__": array,
        "__deepcopy__": deepcopy,
        "cuda": lambda self, device="cuda", **_: _move(mode, self, _device_of(device)),
        "device": property(
            lambda self: torch.device("meta") if REAL["is_meta"](self) else mode.place(self)
        ),
        "is_cuda": property(lambda self: mode.place(self).type == "cuda"),
        "is_cpu": property(lambda self: mode.place(self).type == "cpu"),
        "get_device": lambda self: -1 if mode.place(self) == CPU else mode.place(self).index,
        **{name: waiting(name) for name in WAITING},
        **{name: _factory(mode, REAL[name], True) for name in NEW},
    }  # fmt: skip


def _factory(mode: Pretended, real: Any, like: bool = False) -> Any:
    """Make a function of torch put what it makes on a pretended device."""

    def make(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        model = args[0] if args and isinstance(args[0], torch.Tensor) else None
        if device is None:
            here = like or real.__name__.endswith("_like") or real.__name__ == "as_tensor"
            if model is None or not here or REAL["is_meta"](model):
                return real(*args, **kwargs)
            target = mode.place(model)
        else:
            target = _device_of(device)
            if target.type == "meta":
                return real(*args, **kwargs)
        if target.type != "cuda":
            return real(*args, **kwargs)
        generator = kwargs.get("generator")
        if generator is not None:
            raise MixUpError(f"{real.__name__}: a generator of the CPU for a tensor on {target}")
        if real.__name__ in ("as_tensor", "tensor") and model is not None:
            return _move(mode, model, target)
        with _unwatched():
            made = real(*args, **{**kwargs, "device": "cpu"})
        return mode.put(made, target)

    return make


class _Event:
    """Stands for a CUDA event."""

    def __init__(self, **_: Any) -> None:
        self.time = 0.0

    def record(self, *_: Any) -> None:
        from time import perf_counter

        self.time = perf_counter()

    def elapsed_time(self, other: _Event) -> float:
        return 1000 * (other.time - self.time)


@contextmanager
def pretended_gpus(count: int = 1) -> Iterator[Pretended]:
    """Pretend that torch has some GPUs, inside the block.

    Yields:
        The mode, with its counts.
    """
    mode = Pretended()

    def synchronize(*_: Any) -> None:
        mode.counts["waits"] += 1

    changes: list[tuple[Any, str, Any]] = [
        *((torch.Tensor, name, value) for name, value in _methods(mode).items()),
        *((torch, name, _factory(mode, getattr(torch, name))) for name in FACTORIES),
        (devices, "accelerators", lambda: tuple(f"cuda:{k}" for k in range(count))),
        (torch.cuda, "synchronize", synchronize), (torch.cuda, "Event", _Event),
        (torch.cuda, "current_stream", lambda *_: None),
        (torch.cuda, "set_device", lambda *_: None), (torch.cuda, "manual_seed", lambda *_: None),
    ]  # fmt: skip
    move_module = torch.nn.Module.to

    def module_to(self: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        if args and isinstance(args[0], torch.Tensor):
            args = (mode.place(args[0]), args[0].dtype, *args[1:])
        return move_module(self, *args, **kwargs)

    @contextmanager
    def disable_other_modes() -> Iterator[None]:
        with _unwatched(), mode:
            yield

    changes += [
        (torch.nn.Module, "to", module_to),
        (constants, "_disable_current_modes", disable_other_modes),
        (_python_dispatch, "_disable_current_modes", disable_other_modes),
    ]
    patches = [patch.object(owner, name, value) for owner, name, value in changes]
    for each in patches:
        each.start()
    try:
        with mode:
            yield mode
    finally:
        for each in reversed(patches):
            each.stop()
