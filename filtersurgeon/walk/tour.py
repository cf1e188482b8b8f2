"""``walk --tour``: steps with text, from a file of YAML, shown in the page one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from filtersurgeon.checkpoint.documents import find_lines, parse_yaml, read_text, reason
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import OptionError, near_misses

VIEWS = ("start", "layer", "channel", "stay")
MOST_STEPS, LONGEST_TEXT, LONGEST_TITLE, LONGEST_STEP = 200, 4000, 120, 3600.0
_KEYS = ("text", "title", "layer", "channel", "network", "view", "duration")


@dataclass(frozen=True)
class TourStep:
    """One step of a tour.

    Attributes:
        text: what is shown; a blank line begins a paragraph, and backquotes mark names.
        title: above the text.
        layer: the panel to go to, by its name in the list of layers.
        channel: the channel of that layer that is selected; None for none.
        network: 1, or 2 for the second of two networks.
        view: where to look from: ``start`` is where the walk begins, ``layer`` shows the layer
            whole, ``channel`` its channel from close by, ``stay`` leaves the camera where it is.
            None is ``layer`` where there is one, else ``stay``.
        duration: seconds until the next step while the tour plays by itself; None takes it from
            the length of the text.
        line: of the file where the step begins.
    """

    text: str
    title: str = ""
    layer: str | None = None
    channel: int | None = None
    network: int = 1
    view: str | None = None
    duration: float | None = None
    line: int | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Tour:
    """Steps that a page tells one after another.

    Attributes:
        steps: at least one.
        title: of the tour.
        name: of its file, for messages.
    """

    steps: tuple[TourStep, ...]
    title: str = ""
    name: str = field(default="tour", compare=False)

    def __repr__(self) -> str:
        entries = (step.title or step.text[:40] for step in self.steps)
        return summarise(self, entries, title=self.title, steps=len(self.steps))


def read_tour(path: str | Path) -> Tour:
    """Read a tour, YAML of the form ``steps: [{text: ..., layer: conv1, channel: 3}]``.

    Raises:
        OptionError: it is missing, not YAML, or its steps are not of that form; names the line.

    Examples:
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "tour.yaml")
        ...     _ = path.write_text("steps: [{text: Edges and colours., layer: conv1}]")
        ...     tour = fs.read_tour(path)
        >>> tour.steps[0].layer
        'conv1'
    """
    import yaml

    try:
        text = read_text(Path(path))
        content = parse_yaml(text)
    except UnicodeDecodeError:
        raise OptionError(f"tour {path} is not a text file; it should be YAML") from None
    except OSError as error:
        why = (error.strerror or "it cannot be read").lower()
        raise OptionError(f"tour {path}: {why}") from None
    except (ValueError, yaml.YAMLError) as error:
        raise OptionError(f"cannot read tour {path}: {reason(error)}") from None
    return _Reader(str(path), find_lines(text)).tour(content)


class _Reader:
    """Checks what a file holds; messages name the line."""

    def __init__(self, name: str, lines: Mapping[tuple[str | int, ...], int]) -> None:
        self.name, self.lines = name, lines

    def tour(self, content: object) -> Tour:
        steps = content.get("steps") if isinstance(content, dict) else None
        if not isinstance(content, dict) or not isinstance(steps, list) or not steps:
            raise OptionError(f"{self.name} is no tour: it should contain a list called steps")
        self._check_keys(content, ("title", "steps"), (), "a tour")
        if len(steps) > MOST_STEPS:
            self._refuse(("steps",), f"a tour may have {MOST_STEPS} steps, not {len(steps):,}")
        title = self._text(content, (), "title", LONGEST_TITLE) or ""
        found = tuple(self._step(step, place) for place, step in enumerate(steps))
        return Tour(found, title, Path(self.name).name)

    def _step(self, step: object, place: int) -> TourStep:
        path = ("steps", place)
        what = f"step {place + 1}"
        if not isinstance(step, dict):
            self._refuse(path, f"{what} should read {{text: ..., layer: ...}}")
        self._check_keys(step, _KEYS, path, what)
        text = self._text(step, path, "text", LONGEST_TEXT)
        if not text:
            self._refuse(path, f"{what} needs a text")
        layer = self._text(step, path, "layer", LONGEST_TEXT)
        view = self._text(step, path, "view", LONGEST_TEXT)
        channel = self._whole(step, path, "channel", 0)
        if view is not None and view not in VIEWS:
            self._refuse((*path, "view"), f"view {view!r} is unknown{near_misses(view, VIEWS)}")
        needed = "channel" if view == "channel" else "layer"
        if channel is not None and not layer:
            self._refuse((*path, "channel"), f"{what} names a channel, but no layer")
        if view in ("layer", "channel") and (channel if needed == "channel" else layer) is None:
            self._refuse((*path, "view"), f"{what}: view {view} needs a {needed}")
        network = self._whole(step, path, "network", 1)
        return TourStep(
            text, self._text(step, path, "title", LONGEST_TITLE) or "", layer, channel,
            1 if network is None else network, view, self._seconds(step, path), self._line(path),
        )  # fmt: skip

    def _check_keys(
        self, found: Mapping[Any, Any], known: Sequence[str], path: tuple[str | int, ...], what: str
    ) -> None:
        for key in found:
            if key not in known:
                close = near_misses(str(key), known)
                self._refuse((*path, str(key)), f"{what} has no key {str(key)!r}{close}")

    def _text(
        self, found: Mapping[Any, Any], path: tuple[str | int, ...], key: str, longest: int
    ) -> str | None:
        value = found.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            self._refuse((*path, key), f"{key} should be text; put it in quotes")
        if len(value) > longest:
            self._refuse((*path, key), f"{key} may have {longest:,} characters")
        return value.strip()

    def _whole(
        self, found: Mapping[Any, Any], path: tuple[str | int, ...], key: str, least: int
    ) -> int | None:
        value = found.get(key)
        if value is None:
            return None
        if type(value) is not int or value < least:
            self._refuse((*path, key), f"{key} should be a whole number from {least}")
        return value

    def _seconds(self, found: Mapping[Any, Any], path: tuple[str | int, ...]) -> float | None:
        value = found.get("duration")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            self._refuse((*path, "duration"), "duration should be a number of seconds")
        if not 0 < value <= LONGEST_STEP:
            self._refuse((*path, "duration"), f"duration should be 0 to {LONGEST_STEP:g} seconds")
        return float(value)

    def _line(self, path: tuple[str | int, ...]) -> int | None:
        return self.lines.get(path)

    def _refuse(self, path: tuple[str | int, ...], text: str) -> NoReturn:
        line = self._line(path) or self._line(path[:-1])
        where = f"{self.name}, line {line}" if line else self.name
        raise OptionError(f"{where}: {text}")
