"""Mutations that know what files look like: numbers, JSON values, names, lengths, repetitions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import Random

MAX_CASE = 60_000
"""Bytes of one case at most: less than a pipe holds, so that one process can fill and read it."""

_NUMBERS = (b"0", b"-1", b"1", b"2", b"255", b"65536", b"2147483647", b"2147483648", b"4294967296",
            b"9223372036854775807", b"9223372036854775808", b"18446744073709551616", b"-2147483649",
            b"1e999", b"-1e999", b"1e-999", b"0.5", b"1.5", b"NaN", b"Infinity", b"9" * 5000,
            b"1" + b"0" * 400, b"1000000000000", b"3.0", b"00", b"0x10", b".inf",
            b".nan")  # fmt: skip
_VALUES = (b"null", b"true", b"false", b"[]", b"{}", b'""', b"[[]]", b"[null]", b'{"":{}}',
           b'"x"', b"[1,2]", b"[-1]", b'{"a":1}', b"-", b"~", b"[" * 3000,
           b"[" * 1200 + b"]" * 1200, b'{"a":' * 1200 + b"1" + b"}" * 1200)  # fmt: skip
_NAMES = (b"../../etc/passwd", b"/", b".", b"..", b"\\ud800", b"\\u0000", b"\x00", b"\xff",
          "‮".encode(), "é✓".encode(), b"\x1b[2J", b"\n", b"__metadata__", b"__class__",
          b"$\\frac$", b"<script>", b"[red]", b"a" * 5000, b"%s%n", b"!!python/object:os.system",
          b"&a", b"*a", b"<<", b"? ", b"- ", b": ")  # fmt: skip

_WINDOW = 600
_WORD = re.compile(rb'"[^"]*"|[\w.]+')

Mutation = Callable[[bytearray, Random, Sequence[bytes]], None]


def mutate(case: bytes, random: Random, corpus: Sequence[bytes]) -> bytes:
    """Change a case in one to four ways; the same random state gives the same bytes.

    Args:
        case: the bytes to start from.
        random: decides everything.
        corpus: other cases, of which parts are borrowed.
    """
    changed = bytearray(case)
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        random.choice(_MUTATIONS)(changed, random, corpus)
    return bytes(changed[:MAX_CASE])


def _place(case: bytearray, random: Random) -> int:
    return random.randrange(len(case) + 1)


def _span(case: bytearray, random: Random) -> tuple[int, int]:
    begin = _place(case, random)
    return begin, min(len(case), begin + random.choice((1, 2, 4, 8, 16, 64, 512)))


def _flip(case: bytearray, random: Random, _: Sequence[bytes]) -> None:
    if case:
        case[random.randrange(len(case))] ^= 1 << random.randrange(8)


def _set(case: bytearray, random: Random, _: Sequence[bytes]) -> None:
    if case:
        case[random.randrange(len(case))] = random.choice(
            (0, 1, 127, 128, 255, random.randrange(256))
        )


def _insert(case: bytearray, random: Random, _: Sequence[bytes]) -> None:
    place = _place(case, random)
    case[place:place] = random.randbytes(random.choice((1, 2, 4, 8, 100)))


def _delete(case: bytearray, random: Random, _: Sequence[bytes]) -> None:
    begin, end = _span(case, random)
    del case[begin:end]


def _cut(case: bytearray, random: Random, _: Sequence[bytes]) -> None:
    del case[_place(case, random) :]


def _repeat(case: bytearray, random: Random, _: Sequence[bytes]) -> None:
    begin, end = _span(case, random)
    case[begin:begin] = case[begin:end] * random.choice((1, 2, 10, 100, 3000))
    del case[MAX_CASE:]


def _borrow(case: bytearray, random: Random, corpus: Sequence[bytes]) -> None:
    other = bytearray(random.choice(corpus))
    (begin, end), place = _span(other, random), _place(case, random)
    case[place : place + random.choice((0, end - begin))] = other[begin:end]


def _word(case: bytearray, random: Random, _: Sequence[bytes]) -> None:
    """Put a little-endian number where some binary field may be."""
    size = random.choice((2, 4, 8))
    value = random.choice(
        (0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)
    )
    place = _place(case, random)
    case[place : place + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")


def _spans(pattern: re.Pattern[bytes], case: bytearray, random: Random) -> list[tuple[int, int]]:
    """Find a pattern near some place; looking everywhere would take longer than reading."""
    begin = random.randrange(max(1, len(case) - _WINDOW // 2))
    found = pattern.finditer(bytes(case[begin : begin + _WINDOW]))
    return [(begin + match.start(), begin + match.end()) for match in found]


def _replaced(pattern: re.Pattern[bytes], choices: Sequence[bytes]) -> Mutation:
    def replace(case: bytearray, random: Random, _: Sequence[bytes]) -> None:
        found = _spans(pattern, case, random)
        if found:
            begin, end = random.choice(found)
            case[begin:end] = random.choice(choices)

    return replace


_number = _replaced(re.compile(rb"-?\d+(\.\d+)?"), _NUMBERS)
_value = _replaced(
    re.compile(rb'"[^"]*"|-?\d+|\[[^\[\]]*\]|\{[^{}]*\}|true|null'), (*_VALUES, *_NUMBERS)
)
_name = _replaced(re.compile(rb"[A-Za-z_][\w.]*"), _NAMES)


def _swap(case: bytearray, random: Random, _: Sequence[bytes]) -> None:
    """Let two values or names change places, or one take the other's."""
    found = _spans(_WORD, case, random)
    if len(found) > 1:
        (a, b), (c, d) = sorted(random.sample(found, 2))
        first = bytes(case[a:b])
        if random.random() < 0.5:
            case[a:b], first = case[c:d], bytes(case[a:b])
            shift = (d - c) - (b - a)
            case[c + shift : d + shift] = first
        else:
            case[c:d] = first


_MUTATIONS: tuple[Mutation, ...] = (
    _flip, _set, _insert, _delete, _cut, _repeat, _borrow, _word, _number, _number, _value, _value,
    _name, _swap,
)  # fmt: skip
