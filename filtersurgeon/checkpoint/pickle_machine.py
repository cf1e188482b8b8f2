"""Reads the pickles of PyTorch archives without running them.

A pickle is a program for a machine with a stack. This machine knows only the operations and the
names that state dicts need. It makes plain values and descriptions of tensors, imports nothing,
calls nothing, and never takes more time or memory than a multiple of the pickle's length:
shared values stay shared, only text and integers are hashed, and no call allocates by a number.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

from filtersurgeon.checkpoint.archive_tensors import (
    DTYPES,
    OTHER_STORAGES,
    STORAGES,
    ArchiveTensor,
    OddTensor,
    Storage,
)

HARMLESS = re.compile(
    r"collections\.(OrderedDict|Counter)"
    r"|(builtins|__builtin__)\.(bytearray|complex|set)|_codecs\.encode"
    r"|torch\.(cuda\.)?(sparse\.)?[A-Z]?[A-Za-z0-9]*(Storage|Tensor)"
    r"|torch\.(Size|device|bool|(b?float|u?int|qu?int|complex|bits)\d\w*|per_(tensor|channel)_\w+)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\.storage\.(Typed|Untyped)Storage"
    r"|argparse\.Namespace|numpy\.dtype|numpy\.(_core|core)\.multiarray\.scalar"
)
"""Names that a state dict needs."""

MAX_OPERATIONS = 5_000_000
"""Operations of one pickle; a tensor takes about 35."""
MAX_MADE = 2_000_000
"""Containers of one pickle, and values that it remembers."""
_LONGEST_LINE = 2000
_SHOWN = 60
_LARGEST = (1 << 63) - 1
_COPIED = 4_000_000
_BYTES_COPIED = 64 << 20
_ARGUMENTS = 16
_AXES = 64  # torch allows no more


class UnsafeName(Exception):  # noqa: N818 - an outcome, turned into an error by the caller
    """A pickle mentions something that state dicts do not need; the text is its name."""


class Unread:
    """Stands for a plain value of a training script, such as its options; nothing is kept."""


UNREAD = Unread()


class OddKey:
    """The key of an entry that is neither text nor an integer; it is never hashed by its value."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        return f"a {type(self.value).__name__}"


class Token:
    """A name that a pickle imports.

    Attributes:
        name: with its module.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class Part:
    """Stands for an object of a class that the archive brings itself, as those of TorchScript.

    Attributes:
        kind: the full name of the class.
        content: the attributes by name; None if the object was saved in a form of its own.
        saved: whether it was saved with attributes, in whatever form.
    """

    __slots__ = ("content", "kind", "saved")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.content: dict[Any, Any] | None = None
        self.saved = False


_MARK = object()


class Machine:
    """Reads one pickle.

    Args:
        file: at the pickle's beginning; it is left behind its end.
        find_storage: gives the storage that an archive's ``persistent id`` names. Its arguments are
            the parts of the id behind the word ``storage``.
        parts: names of classes whose objects are read as ``Part``; None for none.
    """

    def __init__(
        self,
        file: Any,
        find_storage: Callable[..., Storage] | None = None,
        parts: re.Pattern[str] | None = None,
    ) -> None:
        self._file = file
        self._parts = parts
        self._find_storage = find_storage
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._made = 0
        self._copied = 0.0
        self._protocol = 0

    def run(self) -> Any:
        """Read up to the end of the pickle.

        Returns:
            Values of Python, with ``ArchiveTensor`` and ``OddTensor`` for tensors, ``Storage`` for
            storages, ``Unread`` for what is read past, and ``Token`` for types and devices.

        Raises:
            UnsafeName: it mentions something that state dicts do not need.
            ValueError: it is no pickle, or would cost too much.
        """
        read, operations = self._file.read, _OPERATIONS
        for _ in range(MAX_OPERATIONS):
            code = read(1)
            if code == b".":
                return self._last()
            if not code:
                raise ValueError("a pickle is truncated")
            operation = operations.get(code)
            if operation is None:
                raise ValueError(f"operation {code!r} of a pickle is not one of state dicts")
            try:
                operation(self)
            except (IndexError, KeyError, TypeError, struct.error, UnicodeError):
                raise ValueError("a pickle is damaged") from None
        raise ValueError(
            f"a pickle has more than {MAX_OPERATIONS:,} operations; "
            "save the state dict of one network"
        )

    def _last(self) -> Any:
        if len(self._stack) != 1 or self._stack[0] is _MARK:
            raise ValueError("a pickle is damaged")
        return self._stack.pop()

    # What operations share.

    def _take(self, count: int) -> bytes:
        """Read bytes, of which there must be enough; no more than there are is ever allocated."""
        data = self._file.read(count)
        if len(data) != count:
            raise ValueError("a pickle is truncated")
        return data

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _make(self, value: Any) -> None:
        self._made += 1
        if self._made > MAX_MADE:
            raise ValueError(
                f"a pickle holds more than {MAX_MADE:,} values; save the state dict of one network"
            )
        self._stack.append(value)

    def _copy(self, part: float) -> None:
        """Count what calls copy, in parts of the bound, for they may copy one value for ever."""
        self._copied += part
        if self._copied > 1:
            raise ValueError("a pickle copies its values too often")

    def _to_mark(self) -> list[Any]:
        stack, place = self._stack, len(self._stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("a pickle is damaged")
        items = stack[place + 1 :]
        del stack[place:]
        return items

    def _remember(self, index: int) -> None:
        if len(self._memo) >= MAX_MADE:
            raise ValueError(f"a pickle remembers more than {MAX_MADE:,} values")
        if self._stack[-1] is _MARK:
            raise ValueError("a pickle is damaged")
        self._memo[index] = self._stack[-1]

    # Operations.

    def _begin(self) -> None:
        self._protocol = self._take(1)[0]

    def _frame(self) -> None:
        self._take(8)

    def _text(self, form: str) -> None:
        self._push(str(self._take(self._length(form)), "utf-8", "surrogatepass"))

    def _bytes(self, form: str) -> None:
        self._push(self._take(self._length(form)))

    def _length(self, form: str) -> int:
        length: int = self._number(form)
        if length < 0:
            raise ValueError("a pickle is damaged")
        return length

    def _old_text(self, form: str) -> None:
        data = self._take(self._length(form))
        try:
            self._push(data.decode())
        except UnicodeDecodeError:
            self._push(data)

    def _long(self) -> None:
        self._push(int.from_bytes(self._take(self._take(1)[0]), "little", signed=True))

    def _global(self) -> None:
        module, name = (self._line() for _ in range(2))
        if self._protocol < 3 and module == "__builtin__":
            module = "builtins"
        self._name(f"{module}.{name}")

    def _line(self) -> str:
        line = self._file.readline(_LONGEST_LINE)
        return line.rstrip(b"\n").decode("utf-8")

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise UnsafeName("name that is no text")
        self._name(f"{module}.{name}")

    def _name(self, name: str) -> None:
        if not (HARMLESS.fullmatch(name) or self._is_part(name)):
            raise UnsafeName(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")
        self._make(Token(name))

    def _is_part(self, name: str) -> bool:
        return self._parts is not None and self._parts.fullmatch(name) is not None

    def _append(self) -> None:
        item = self._stack.pop()
        self._extend([item])

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Unread):
            raise ValueError("a pickle adds to what is no list")

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._update([key, value])

    def _update(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Unread):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise ValueError("a pickle adds entries to what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_as_key(key)] = value

    def _tuple(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) != count or _MARK in items:
            raise ValueError("a pickle is damaged")
        del self._stack[-count:]
        self._make(items)

    def _drop(self) -> None:
        self._stack.pop()

    def _drop_to_mark(self) -> None:
        self._to_mark()

    def _persistent(self) -> None:
        given = self._stack.pop()
        if self._find_storage is None or not isinstance(given, tuple) or not given:
            raise ValueError("a pickle refers to something outside of it")
        word, *rest = given
        if not isinstance(word, str | bytes) or word not in ("storage", b"storage"):
            raise UnsafeName("object outside of the pickle")
        _check_count(rest)
        self._make(self._find_storage(*rest))

    def _other(self, name: str) -> None:
        raise UnsafeName(f"object ({name})")

    def _call(self) -> None:
        arguments, what = self._stack.pop(), self._stack.pop()
        if not isinstance(what, Token) or not isinstance(arguments, tuple):
            raise UnsafeName("call of what is no name")
        _check_count(arguments)
        self._make(self._result(what.name, arguments))

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        # Attributes of dictionaries and tensors are not kept; a tuple would be a tensor's data.
        if isinstance(target, ArchiveTensor | OddTensor) and not isinstance(state, dict):
            raise ValueError("a tensor was saved by a PyTorch older than 0.4")
        if isinstance(target, Part):
            target.content = state if isinstance(state, dict) else None
            target.saved = True
            return
        if not isinstance(target, dict | ArchiveTensor | OddTensor | Unread):
            raise ValueError("a pickle gives a state to what takes none")

    def _result(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """Describe what a call would give."""
        if self._is_part(name):
            return Part(name)
        last = name.rpartition(".")[2]
        make = _CALLS.get(last)
        if make is not None:
            return make(self, arguments)
        if last.startswith("_rebuild_") or last.endswith("Tensor"):
            return OddTensor(last.removeprefix("_rebuild_"))
        if last in ("device", "dtype", "scalar", "Namespace", "_get_layout"):
            return UNREAD
        raise ValueError(f"a pickle calls {name}")

    def _dictionary(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        _check_count(arguments, 0, 1)
        made: dict[Any, Any] = {}
        for given in arguments:
            self._copy(len(given) / _COPIED)
            for pair in given.items() if isinstance(given, dict) else given:
                if len(pair) != 2:
                    raise TypeError
                key, value = pair
                made[_as_key(key)] = value
        return made

    def _sequence(self, arguments: tuple[Any, ...]) -> list[Any]:
        _check_count(arguments, 0, 1)
        given = arguments[0] if arguments else ()
        if not isinstance(given, list | tuple):
            raise TypeError
        self._copy(len(given) / _COPIED)
        return list(given)

    def _size(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(self._sequence(arguments))

    def _encode(self, arguments: tuple[Any, ...]) -> bytes:
        text = arguments[0] if arguments else b""
        if isinstance(text, int):
            raise ValueError("a pickle allocates memory by a number")
        if not isinstance(text, str | bytes):
            raise TypeError
        self._copy(len(text) / _BYTES_COPIED)
        return text.encode("latin-1", "replace") if isinstance(text, str) else text

    def _complex(self, arguments: tuple[Any, ...]) -> complex:
        if not all(isinstance(part, int | float) for part in arguments):
            raise TypeError
        return complex(*arguments)

    def _tensor(self, arguments: tuple[Any, ...]) -> ArchiveTensor | OddTensor:
        _check_count(arguments, 4)
        storage, offset, size, stride, *rest = arguments
        return _describe(storage, None, offset, size, stride, rest[2] if len(rest) > 2 else None)

    def _typed_tensor(self, arguments: tuple[Any, ...]) -> ArchiveTensor | OddTensor:
        _check_count(arguments, 7)
        storage, offset, size, stride, _, _, dtype, *rest = arguments
        return _describe(storage, dtype, offset, size, stride, rest[0] if rest else None)

    def _meta(self, _: tuple[Any, ...]) -> OddTensor:
        return OddTensor("meta")

    def _sparse(self, _: tuple[Any, ...]) -> OddTensor:
        return OddTensor("sparse")

    def _quantised(self, _: tuple[Any, ...]) -> OddTensor:
        return OddTensor("quantised")

    def _parameter(self, arguments: tuple[Any, ...]) -> ArchiveTensor | OddTensor:
        if not isinstance(arguments[0], ArchiveTensor | OddTensor):
            raise TypeError
        return arguments[0]

    def _of_type(self, arguments: tuple[Any, ...]) -> Any:
        _check_count(arguments, 4, 4)
        what, _, inner, _ = arguments
        if not isinstance(what, Token) or not isinstance(inner, tuple):
            raise TypeError
        _check_count(inner)
        made = _CALLS.get(what.name.rpartition(".")[2])
        if made in (Machine._of_type, None):
            return OddTensor("of a class of its own")
        return made(self, inner)


def _check_count(arguments: Sequence[Any], least: int = 0, most: int = _ARGUMENTS) -> None:
    if not least <= len(arguments) <= most:
        raise ValueError(f"a pickle calls with {len(arguments)} arguments, which is wrong")


def _as_key(key: Any) -> Any:
    """Give a key whose hash costs nothing, and cannot be chosen to meet others'."""
    if isinstance(key, str) or (isinstance(key, int) and abs(key) <= _LARGEST):
        return key
    return OddKey(key)


def storage_of(kind: object, count: object) -> Storage:
    """Describe a storage by what a persistent id says.

    Args:
        kind: the name of its class, as the machine gives it.
        count: its elements.

    Raises:
        ValueError: it is none.
    """
    name = kind.name.rpartition(".")[2] if isinstance(kind, Token) else ""
    word = name.removesuffix("Storage")
    if word == name or (word not in STORAGES and word not in OTHER_STORAGES):
        raise ValueError(f"{name or 'something'} is no storage of a known type")
    if not isinstance(count, int) or not 0 <= count <= _LARGEST:
        raise ValueError("a storage has no sensible size")
    return Storage(word, count)


def _describe(
    storage: Any, dtype: Any, offset: Any, size: Any, stride: Any, metadata: Any
) -> ArchiveTensor | OddTensor:
    """Describe a tensor by the arguments with which torch would make it."""
    if not isinstance(storage, Storage):
        raise TypeError
    if len(size) > _AXES or len(stride) > _AXES:
        raise ValueError("a tensor has too many axes")
    numbers = (offset, *size, *stride)
    if not all(isinstance(number, int) and 0 <= number <= _LARGEST for number in numbers):
        raise ValueError("a tensor has a shape of no sensible numbers")
    if len(size) != len(stride):
        raise ValueError("a tensor has other strides than axes")
    if dtype is None:
        code = STORAGES.get(storage.kind)
        word = f"of type {storage.kind}"
    else:
        name = dtype.name if isinstance(dtype, Token) else ""
        code, word = DTYPES.get(name), f"of type {name}"
    if code is None:
        return OddTensor(word)
    signs = metadata if isinstance(metadata, dict) else {}
    conjugated, negated = bool(signs.get("conj")), bool(signs.get("neg"))
    if negated and code not in ("F16", "BF16", "F32", "F64", "C64"):
        return OddTensor("a negative view of integers")
    found = ArchiveTensor(
        storage, code, offset, tuple(size), tuple(stride), conjugated and code == "C64", negated
    )
    if (offset + found.span) * found.itemsize > storage.nbytes and found.span:
        raise ValueError("a tensor lies outside its storage")
    return found


_CALLS: dict[str, Callable[[Machine, tuple[Any, ...]], Any]] = {
    "OrderedDict": Machine._dictionary,
    "Counter": Machine._dictionary,
    "set": Machine._sequence,
    "Size": Machine._size,
    "bytearray": Machine._encode,
    "encode": Machine._encode,
    "complex": Machine._complex,
    "_rebuild_tensor": Machine._tensor,
    "_rebuild_tensor_v2": Machine._tensor,
    "_rebuild_tensor_v3": Machine._typed_tensor,
    "_rebuild_meta_tensor_no_storage": Machine._meta,
    "_rebuild_sparse_tensor": Machine._sparse,
    "_rebuild_qtensor": Machine._quantised,
    "_rebuild_parameter": Machine._parameter,
    "_rebuild_parameter_with_state": Machine._parameter,
    "Parameter": Machine._parameter,
    "_rebuild_from_type_v2": Machine._of_type,
}

_OPERATIONS: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": Machine._begin,
    b"\x95": Machine._frame,
    b"(": lambda m: m._push(_MARK),
    b"N": lambda m: m._push(None),
    b"\x88": lambda m: m._push(True),
    b"\x89": lambda m: m._push(False),
    b"J": lambda m: m._push(m._number("<i")),
    b"K": lambda m: m._push(m._number("<B")),
    b"M": lambda m: m._push(m._number("<H")),
    b"\x8a": Machine._long,
    b"G": lambda m: m._push(m._number(">d")),
    b"X": lambda m: m._text("<I"),
    b"\x8c": lambda m: m._text("<B"),
    b"\x8d": lambda m: m._text("<q"),
    b"U": lambda m: m._old_text("<B"),
    b"T": lambda m: m._old_text("<i"),
    b"B": lambda m: m._bytes("<I"),
    b"C": lambda m: m._bytes("<B"),
    b"\x8e": lambda m: m._bytes("<q"),
    b"\x96": lambda m: m._bytes("<q"),
    b"c": Machine._global,
    b"\x93": Machine._stack_global,
    b"}": lambda m: m._make({}),
    b"]": lambda m: m._make([]),
    b")": lambda m: m._push(()),
    b"\x8f": lambda m: m._make([]),
    b"l": lambda m: m._make(m._to_mark()),
    b"t": lambda m: m._make(tuple(m._to_mark())),
    b"\x91": lambda m: m._make(m._to_mark()),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"a": Machine._append,
    b"e": lambda m: m._extend(m._to_mark()),
    b"\x90": lambda m: m._extend(m._to_mark()),
    b"s": Machine._set_item,
    b"u": lambda m: m._update(m._to_mark()),
    b"q": lambda m: m._remember(m._number("<B")),
    b"r": lambda m: m._remember(m._number("<I")),
    b"\x94": lambda m: m._remember(len(m._memo)),
    b"h": lambda m: m._push(m._memo[m._number("<B")]),
    b"j": lambda m: m._push(m._memo[m._number("<I")]),
    b"0": Machine._drop,
    b"1": Machine._drop_to_mark,
    b"Q": Machine._persistent,
    b"R": Machine._call,
    b"\x81": Machine._call,
    b"b": Machine._build,
    b"i": lambda m: m._other("INST"),
    b"o": lambda m: m._other("OBJ"),
    b"\x82": lambda m: m._other("EXT1"),
    b"\x83": lambda m: m._other("EXT2"),
    b"\x84": lambda m: m._other("EXT4"),
    b"\x92": lambda m: m._other("NEWOBJ_EX"),
}
