"""The exceptions that users meet, and the near misses that make them helpful."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from errno import ENOMEM
from heapq import nlargest
from typing import Any

_MANY = 200  # words to compare with a mistyped one
_LONGEST = 300


class FilterSurgeonError(Exception):
    """Base of all errors that a user can cause; the text is one line that names the remedy."""


class CheckpointError(FilterSurgeonError):
    """A file, folder or stream is not a checkpoint that can be read, or cannot be written."""


class EmptyInputError(CheckpointError):
    """A file or stream without a byte was given as a checkpoint."""


class PipeError(CheckpointError):
    """The other end of a pipe failed: that command says why, so this one adds only a note."""


class LayerError(FilterSurgeonError):
    """A layer cannot be operated on: unknown, degenerate or of an unsuitable shape."""


class PinnedError(LayerError):
    """No channel of the selected layers can be removed.

    Attributes:
        pins: name of a layer -> what keeps its output channels, each with ``text``, ``operator``,
            ``module``, ``line``, ``code`` and ``remedy``.
    """

    def __init__(self, message: str, pins: Mapping[str, tuple[Any, ...]] | None = None) -> None:
        super().__init__(message)
        self.pins = dict(pins or {})


class OptionError(FilterSurgeonError):
    """An option, method, bank or recipe is unknown or has an unusable value."""


class ArchitectureError(FilterSurgeonError):
    """The architecture is unknown, ambiguous, or does not fit the tensors."""


class NetworkCodeError(ArchitectureError):
    """A network's own code raised an exception, which is this error's ``__cause__``."""


class GraphError(FilterSurgeonError):
    """The channels of a network cannot be followed, or a cut would change what it must not."""


class OutputError(FilterSurgeonError):
    """What a network returns holds no tensors, or cannot be compared or scored."""


class DataError(FilterSurgeonError):
    """Images or labels are missing, unreadable, or do not fit the network."""


class ImageError(DataError):
    """An image file is missing, damaged, of another format or too large."""


class TrainingError(FilterSurgeonError):
    """A training run cannot start, cannot go on, or diverged."""


class DivergedError(TrainingError):
    """The loss became NaN or infinite; the network is back in its last good state."""


class OutOfMemoryError(FilterSurgeonError):
    """A batch did not fit into memory; the text suggests a smaller one."""


class FilterSurgeonWarning(UserWarning):
    """A warning about an automatic choice; one line that names the remedy."""


def ran_out_of_memory(problem: BaseException) -> bool:
    """Tell whether an exception means that memory could not be had, by whatever library."""
    if isinstance(problem, MemoryError | OutOfMemoryError):
        return True
    if isinstance(problem, OSError):
        return problem.errno == ENOMEM
    # torch's allocator on the CPU, threads, and shared libraries have no class of their own.
    words = ("allocate memory", "out of memory", "not enough memory", "start new thread",
             "failed to map segment", "could not create a primitive",
             "could not create a memory")  # fmt: skip
    return isinstance(problem, RuntimeError | ImportError) and any(
        word in str(problem) for word in words
    )


def printable(text: str) -> str:
    """Write what would steer a terminal, or turn a line around, as an escape.

    Names come from files, and a file must not write on the screen as it likes.
    """
    return "".join(
        x if x.isprintable() or x == " " else x.encode("unicode_escape").decode() for x in text
    )


def near_misses(word: str, known: Iterable[str], limit: int = 3) -> str:
    """Give a clause naming the known words closest to a mistyped one.

    Args:
        word: what the user wrote.
        known: every word that would have been accepted.
        limit: how many near misses to name at most.

    Returns:
        ``"; did you mean a or b?"``, else ``"; known: a, b, ..."`` for a short list,
        else an empty string.
    """
    words = sorted(set(known))
    same = [x for x in words if x.lower() == word.lower()]
    close = same or get_close_matches(word, _likely(word, words), n=limit, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known: {', '.join(words)}" if 0 < len(words) <= 12 else ""


def as_percentage(share: float) -> str:
    """Give a clause that suggests a share, where a percentage was written; else an empty string."""
    return f"; did you mean {share / 100:g}?" if 1 < share < 100 else ""


def _likely(word: str, words: list[str]) -> list[str]:
    """Leave of very many words those that begin and end most alike; comparing all takes long."""
    if len(word) > _LONGEST:
        return []
    if len(words) <= _MANY:
        return words
    return nlargest(_MANY, words, key=lambda x: _same(word, x) + _same(word[::-1], x[::-1]))


def _same(one: str, other: str) -> int:
    """Count the characters with which two words begin alike."""
    return next((k for k, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
