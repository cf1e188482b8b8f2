"""A reader under fire: valid inputs to start from, and what to do with a broken one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from fuzz.bounds import DEFAULT, Bounds

FINDINGS = Path(__file__).with_name("findings")


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: the name of its file in ``fuzz/readers``.
        corpus: makes the valid inputs, by the project's own writers.
        read: reads one input to the end; raises FilterSurgeonError to refuse it.
        repair: makes what a mutation broke whole again where nothing would be learnt from it.
        bounds: what one case may cost.
        refused: further inputs to start from, which are whole but must be refused.
    """

    name: str
    corpus: Callable[[], list[bytes]]
    read: Callable[[bytes], object]
    repair: Callable[[bytes], bytes]
    bounds: Bounds = DEFAULT
    refused: Callable[[], list[bytes]] = list

    def seeds(self) -> list[bytes]:
        """Give the valid inputs, those to be refused, and those that once were findings."""
        return [*self.corpus(), *self.refused(), *(path.read_bytes() for path in self.findings())]

    def warm_up(self) -> None:
        """Read the valid inputs once, without limits.

        What is imported late is imported now: an import that a limit interrupts leaves parts of
        packages behind, and every later case would fail on them.
        """
        for case in self.corpus():
            with suppress(Exception):  # tried again, and reported, under the limits
                self.read(case)

    def findings(self) -> list[Path]:
        """List the inputs that this reader once did not stand."""
        return sorted((FINDINGS / self.name).glob("*"))


def names() -> list[str]:
    """List the readers."""
    folder = Path(__file__).with_name("readers")
    return sorted(path.stem for path in folder.glob("[!_]*.py"))


def find(name: str) -> Reader:
    """Import one reader."""
    module = import_module(f"fuzz.readers.{name}")
    return Reader(
        name,
        module.corpus,
        module.read,
        getattr(module, "repair", lambda case: case),
        getattr(module, "BOUNDS", DEFAULT),
        getattr(module, "refused", list),
    )
