"""What an exception of foreign code means: its type, its layer, its line of code.

Networks and factories are code that this package has never seen, and raise anything. What they
raise is reported in one line, in the same words by every command.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import (
    ArchitectureError,
    FilterSurgeonError,
    NetworkCodeError,
    ran_out_of_memory,
)
from filtersurgeon.networks.arguments import describe_mismatch
from filtersurgeon.networks.code_lines import is_installed

if TYPE_CHECKING:
    from torch import nn

_LINE = 160 - len("error: ")
_LEAST = 60
_REMEDY = 30
"""Characters left for the remedy that the command line adds to a network's own failure."""
_CHANNELS = re.compile(r"expected input\[.*?\] to have (\d+) channels, but got (\d+) channels")
_FEATURES = re.compile(r"mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)")
_AXES = re.compile(r"Expected \dD \(unbatched\) or (\d)D \(batched\) input to conv")
_SIDES = {"3": "channels and length", "4": "channels, height and width",
          "5": "channels, depth, height and width"}  # fmt: skip
_LOOKS = re.compile(
    r"Tensor\.item\(\) cannot be called on meta|_local_scalar_dense|meta device type tensor to"
    r" numpy|\.numpy\(\) is not supported for tensor subclasses|data-dependent|to list\(\) a meta"
)
_VALUELESS = frozenset({"DataDependentOutputException", "DynamicOutputShapeException"})
"""Exceptions of torch, by name, as torch may not be imported."""
_SIZES = re.compile(
    r"shape|size|dimension|mat1|channel|element|expand|broadcast|match|equal|divisible|\bdims?\b",
    re.IGNORECASE,
)
_CALLING = ("_call_impl", "inner")
"""Functions of torch that call a module's ``forward``."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_WORKER = re.compile(r"Caught \w+ in (?:DataLoader )?\w+ (?:worker|replica)")


def describe_failure(before: str, problem: BaseException, after: str = "", spare: int = 0) -> str:
    """Put what an exception is between two texts, so that all and ``spare`` fit on one line."""
    room = max(_LINE - len(before) - len(after) - spare, _LEAST)
    return f"{before}{reason(problem, room)}{after}"


def reason(problem: BaseException, room: int) -> str:
    """Say what an exception is in at most ``room`` characters.

    Args:
        problem: of any class; with the traceback that it was caught with.
        room: for the whole, in characters.

    Returns:
        Such as ``at fc, nets.py:12, KeyError: 'features'``: the layer if a network was
        running, the line of the user's code if there is one, the class, and the first line of the
        text as far as there is room.
    """
    if unmet := _lacks_arguments(problem):
        return shorten(unmet, room)
    layer, line = (f"{part}, " if part else "" for part in (_layer(problem), _line(problem)))
    fitting = (place for place in (layer + line, layer, line) if len(place) <= room // 2)
    place = next(fitting, "")
    if looks_at_values(problem):
        return f"{place}it looks at the values of a tensor, and a trace has none"
    kind, text = type(problem).__name__, first_line(problem)
    if plain := _expectation(text):
        return shorten(f"{place}{plain}", room)
    return shorten(f"{place}{kind}: {text}" if text else f"{place}{kind}", room)


def _expectation(text: str) -> str:
    """Say what a layer of torch takes, where its error tells; else give an empty string."""
    if found := _CHANNELS.search(text):
        return f"it takes {found[1]} channels, not {found[2]}"
    if found := _FEATURES.search(text):
        return f"it takes {found[2]} features, not {found[1]}"
    if found := _AXES.search(text):
        return f"it takes inputs with {_SIDES[found[1]]}"
    return ""


def looks_at_values(problem: BaseException) -> bool:
    """Tell whether an exception says that a tensor without data has no values to look at."""
    kinds = {kind.__name__ for kind in type(problem).__mro__}
    return bool(_VALUELESS & kinds) or bool(_LOOKS.search(_text(problem)))


def first_line(problem: BaseException) -> str:
    """Give the first line of an exception's text that says something; empty if none does."""
    lines = [" ".join(line.split()) for line in _COLOUR.sub("", _text(problem)).splitlines()]
    lines = [line for line in lines if line]
    if lines and _WORKER.match(lines[0]):
        return lines[-1]  # what the worker's traceback ends with
    return lines[0] if lines else ""


def shorten(text: str, room: int) -> str:
    """Cut a text behind a word, with dots, if it is longer than ``room`` characters."""
    if len(text) <= room:
        return text
    kept = text[: max(room - 3, 0)]
    words = kept.rpartition(" ")[0] or kept[:-1]
    return f"{words.rstrip(' ,;:')} ..."


def _text(problem: BaseException) -> str:
    """Give the text of an exception, whose class may be unable to."""
    try:
        return str(problem)
    except Exception:
        return ""


def _frames(problem: BaseException) -> Iterator[tuple[FrameType, int]]:
    place = problem.__traceback__
    while place is not None:
        yield place.tb_frame, place.tb_lineno
        place = place.tb_next


def failed_in_network(problem: BaseException) -> bool:
    """Tell whether an exception came out of a network that was running."""
    return next(_list_running(problem), None) is not None


def about_sizes(problem: BaseException) -> bool:
    """Tell whether an operator did not take the shapes that it was given, as far as words tell."""
    kinds = RuntimeError | AssertionError | ValueError | IndexError
    return isinstance(problem, kinds) and bool(_SIZES.search(_text(problem)))


def _list_running(problem: BaseException) -> Iterator[nn.Module]:
    """List the modules that were running when an exception was raised, outermost first."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    for frame, _ in _frames(problem):
        module = frame.f_locals.get("self")
        if frame.f_code.co_name == "_call_impl" and isinstance(module, torch.nn.Module):
            yield module


def _lacks_arguments(problem: BaseException) -> str:
    """Say what the ``forward`` of a network needs that one image alone is not."""
    modules = list(_list_running(problem))
    called = [frame.f_code.co_name for frame, _ in _frames(problem)][-1:]
    if not isinstance(problem, TypeError) or len(modules) != 1 or called[0] not in _CALLING:
        return ""
    unmet = describe_mismatch(modules[0].forward, 1, ())
    return f"its forward {unmet}: name inputs in `input_size`" if unmet else ""


def _layer(problem: BaseException) -> str:
    modules: list[Any] = list(_list_running(problem))
    own = __name__.partition(".")[0]
    while modules and type(modules[0]).__module__.startswith(f"{own}."):
        del modules[0]  # a network of this package around the user's
    if not modules:
        return ""
    names = {id(module): name for name, module in modules[0].named_modules()}
    name = next((names[id(m)] for m in reversed(modules) if names.get(id(m))), "")
    return f"at {name}" if name else ""


def _line(problem: BaseException) -> str:
    """Give the file and line of the user's own code that ran last, or an empty text."""
    found = ""
    for frame, number in _frames(problem):
        path = Path(frame.f_code.co_filename)
        if not is_installed(path):
            found = f"{path.name}:{number}"
    return found


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep the block's log to itself: torch logs a traceback of what it also raises."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)


@contextmanager
def running(name: str) -> Iterator[None]:
    """Turn a network's own failure inside the block into one line.

    Raises:
        ArchitectureError: its operators do not take such images.
        NetworkCodeError: its code raises something else.
    """
    try:
        yield
    except (FilterSurgeonError, OSError):
        raise
    except Exception as problem:
        expected = isinstance(problem, RuntimeError | AssertionError)
        if ran_out_of_memory(problem) or not (expected or failed_in_network(problem)):
            raise
        before = f"{name} fails on these images ("
        if about_sizes(problem):
            after = "); check `preprocess` input_size=C,H,W and `batch_size`"
            raise ArchitectureError(describe_failure(before, problem, after)) from problem
        raise NetworkCodeError(describe_failure(before, problem, ")", _REMEDY)) from problem
