"""One network made ready to be walked through: its panels, then its maps for every image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from filtersurgeon.errors import GraphError, OutputError
from filtersurgeon.learn.networks import Network, output_names, running
from filtersurgeon.networks.devices import find_device
from filtersurgeon.networks.outputs import class_scores
from filtersurgeon.ranking import Ranking
from filtersurgeon.walk.find_rules import affine_of, rule_of
from filtersurgeon.walk.follow import Given, Keep, follow
from filtersurgeon.walk.layout import Place, Step, Way, contract, lay_out, without_hidden
from filtersurgeon.walk.pairing import find_kept_channels, sections_of
from filtersurgeon.walk.quantise import Maps, facts_of, quantise, rectify
from filtersurgeon.walk.rules import FLAT, NORM, OTHER, SAME, Link, Rule
from filtersurgeon.walk.scene import WHOLE, Guess, Limit, Panel, Seen
from filtersurgeon.walk.weights import Weights, describe, weights_of

_RECTIFIERS = ("ReLU", "relu")
_BESIDE = 5.0
_BEST = 5


@dataclass(frozen=True)
class PreparedNetwork:
    """A network on its way into a scene.

    Attributes:
        network: the network, on its device.
        device: where it runs.
        steps: everything that it does.
        shapes: channels, height and width of what each step gives.
        labels: names of its classes, or none.
        given: what every step was given.
        scores: which step gives the scores of the classes; None where that is unknown.
    """

    network: Network
    device: torch.device
    steps: tuple[Step, ...]
    shapes: tuple[tuple[int, int, int], ...]
    labels: tuple[str, ...] = ()
    given: Given = field(default_factory=Given)
    scores: int | None = None

    @cached_property
    def shown(self) -> list[int]:
        """Which steps have a panel."""
        return without_hidden(list(self.steps))

    @cached_property
    def panel_steps(self) -> list[Step]:
        """The steps with a panel, fed by one another."""
        return contract(list(self.steps), self.shown)

    @property
    def panel_shapes(self) -> list[tuple[int, int, int]]:
        """Shapes of what is on the panels."""
        return [self.shapes[n] for n in self.shown]

    def panels(self, ranking: Ranking | None = None) -> tuple[list[Panel], list[Way]]:
        """Make the panels, and the ways between them."""
        places, ways = lay_out(self.panel_steps, self.panel_shapes)
        sections = sections_of([step.module for step in self.panel_steps])
        panels = [
            Panel(
                step, shape, place, section, self._weights(step, shape, ranking),
                links=self._links(number), rule=self._rule(number),
            )
            for number, step, shape, place, section in zip(
                self.shown, self.panel_steps, self.panel_shapes, places, sections, strict=True
            )
        ]  # fmt: skip
        return panels, ways

    @property
    def score_panel(self) -> int | None:
        """Which panel has the scores of the classes; None where that is unknown."""
        return None if self.scores is None else self.shown.index(self.scores)

    @property
    def class_panels(self) -> tuple[int, ...]:
        """Which panels have one channel per class: the scores, and what only leads to them."""
        found: list[int] = []
        number = self.score_panel
        while number is not None:
            found.append(number)
            step, shape = self.panel_steps[number], self.panel_shapes[number]
            feed = step.feeds[0].step if len(step.feeds) == 1 else 0
            through = step.kind in ("activation", "pool") and self.panel_shapes[feed][0] == shape[0]
            number = feed if through and feed else None
        return tuple(sorted(found))

    def _links(self, number: int) -> tuple[Link, ...]:
        """Say what happened to the maps of other panels before a step reads them."""
        links = []
        for place, feed in enumerate(self.steps[number].feeds):
            how, affine, source = self._link(number, place), None, feed.step
            while how and source not in self.shown:
                step = self.steps[source]
                own = affine_of(self._module(step))
                if self._link(source, 0) != SAME or self.shapes[source] != self.shapes[feed.step]:
                    how = OTHER
                elif own is None:
                    how = NORM if how == SAME else OTHER
                affine = own if affine is None else _compose(affine, own)
                source = step.feeds[0].step
            known = how in (SAME, FLAT)
            links.append(Link(how, affine if known else None))
        return tuple(links)

    def _link(self, number: int, place: int) -> str:
        links = self.given.links
        return links[number][place] if number < len(links) else OTHER

    def _rule(self, number: int) -> Rule | None:
        step = self.steps[number]
        given = self.shapes[step.feeds[0].step] if step.feeds else None
        module = None if "/" in step.name else self._module(step)
        return rule_of(step, module, self.given.settings.get(number, {}), given)

    def _module(self, step: Step) -> nn.Module | None:
        return _submodule(self.network.model, step.name.partition("#")[0])

    def _weights(
        self, step: Step, shape: tuple[int, int, int], ranking: Ranking | None
    ) -> Weights | None:
        if step.kind not in ("conv", "linear"):
            return None
        module = self._module(step)
        values = weights_of(module, shape[0]) if module is not None else None
        if module is None or values is None:
            return None
        return describe(step.module, values, int(getattr(module, "groups", 1)), ranking)

    def see(self, image: Tensor, limit: Limit = WHOLE) -> Seen:
        """Run the network on an image.

        Args:
            image: ``(channels, height, width)``, normalised.
            limit: how much of the maps to keep.

        Raises:
            GraphError: it runs otherwise than on the first image.
        """
        place = {number: panel for panel, number in enumerate(self.shown)}
        found: list[Maps] = []

        def keep(number: int, step: Step, maps: np.ndarray) -> None:
            self._check(number, step, maps)
            if number in place:
                found.append(self._reduce(place[number], maps, limit, found))

        steps, output = _run(self.network, self.device, image, keep)
        if len(steps) != len(self.steps):
            raise self._differs(steps[-1].name)
        return Seen(tuple(found), self._guesses(output))

    def _reduce(self, panel: int, maps: np.ndarray, limit: Limit, before: list[Maps]) -> Maps:
        small = _smaller(maps, limit)
        step = self.panel_steps[panel]
        if step.text in _RECTIFIERS and len(step.feeds) == 1 and not step.feeds[0].through:
            source = before[step.feeds[0].step]
            if source.values.shape == small.shape:
                shared = quantise(small, source.bound)
                # At its source's scale it costs nothing, and is as exact as its source.
                if np.array_equal(shared.values, rectify(source)):
                    return replace(shared, facts=facts_of(maps[: len(small)]))
        return replace(quantise(small), facts=facts_of(maps[: len(small)]))

    def _check(self, number: int, step: Step, maps: np.ndarray) -> None:
        if number >= len(self.steps) or self.steps[number].name != step.name:
            raise self._differs(step.name)
        if maps.shape != self.shapes[number]:
            raise self._differs(step.name)

    def _differs(self, name: str) -> GraphError:
        return GraphError(
            f"{self.network.name} does something else for another image (at {name}); "
            "walk through it with one image at a time"
        )

    def _guesses(self, output: object) -> tuple[Guess, ...]:
        try:
            scores = class_scores(output)
        except OutputError:
            return ()
        if scores.shape[1] < 2:
            return ()
        shares = scores[0].float().softmax(0)
        best = shares.topk(min(_BEST, len(shares)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return tuple(Guess(i, self._label(i), share) for i, share in pairs)

    def _label(self, index: int) -> str:
        return self.labels[index] if index < len(self.labels) else f"class {index}"


def prepare(network: Network, image: Tensor, device: str = "auto") -> PreparedNetwork:
    """Find out what a network does, by running it once.

    Args:
        network: what to walk through.
        image: ``(channels, height, width)``, normalised.
        device: where to run it.

    Raises:
        GraphError: nothing that it does could be followed.
    """
    where = find_device(device)
    network.model.to(where)
    shapes: list[tuple[int, int, int]] = []
    rows: dict[int, np.ndarray] = {}
    given = Given()

    def keep(number: int, _step: Step, maps: np.ndarray) -> None:
        shapes.append((maps.shape[0], maps.shape[1], maps.shape[2]))
        if maps.shape[1:] == (1, 1):
            rows[number] = maps.reshape(-1)

    steps, output = _run(network, where, image, keep, given)
    if len(steps) < 2:
        raise GraphError(
            f"{network.name}: none of its layers could be followed; "
            "compiled or scripted networks cannot be walked through"
        )
    return PreparedNetwork(
        network,
        where,
        tuple(steps),
        tuple(shapes),
        output_names(network),
        given,
        _find_scores(output, rows, set(without_hidden(steps))),
    )


def _find_scores(output: Any, rows: dict[int, np.ndarray], shown: set[int]) -> int | None:
    """Find the last step with a panel that gives what the network returns as scores of classes."""
    try:
        scores = class_scores(output)[0].float().cpu().numpy()
    except OutputError:
        return None
    same = [
        number
        for number, row in rows.items()
        if number in shown and 1 < len(row) == len(scores) and np.array_equal(row, scores)
    ]
    return same[-1] if same else None


def _compose(after: np.ndarray, before: np.ndarray | None) -> np.ndarray | None:
    """Give the scales and shifts of two normalisations, one after the other."""
    if before is None or before.shape != after.shape:
        return None
    composed: np.ndarray = np.stack([after[0] * before[0], after[0] * before[1] + after[1]])
    return composed


def _run(
    network: Network,
    device: torch.device,
    image: Tensor,
    keep: Keep,
    given: Given | None = None,
) -> tuple[list[Step], Any]:
    first = next(network.model.parameters(), None)
    batch = image[None].to(device, first.dtype if first is not None else None)
    with running(network.name):
        return follow(network.model, batch, keep, given)


def _smaller(maps: np.ndarray, limit: Limit) -> np.ndarray:
    """Keep so many channels and pixels as a limit allows."""
    kept = maps[: limit.channels]
    side = limit.side
    if side is None or max(kept.shape[1:]) <= side:
        return kept
    size = (min(side, kept.shape[1]), min(side, kept.shape[2]))
    pooled: np.ndarray = nn.functional.adaptive_avg_pool2d(torch.from_numpy(kept), size).numpy()
    return pooled


def beside(
    first: PreparedNetwork,
    second: PreparedNetwork,
    panels: Sequence[Panel],
    own: tuple[list[Panel], list[Way]],
) -> tuple[list[Panel], list[Way], int]:
    """Put the panels of a second network beside those of the first.

    Where all its steps are the first's, every panel stands beside its twin and has its size and
    the same slots, with gaps for channels that were removed.

    Returns:
        Its panels and ways, and the number of panels whose channels could not be matched.
    """
    mine, ways = own
    twins = {panel.step.name: panel for panel in panels}
    shift = max(p.place.x + p.place.width / 2 for p in panels) + _BESIDE
    shift -= min(panel.place.x - panel.place.width / 2 for panel in mine)
    if not all(panel.step.name in twins for panel in mine):
        return (
            [_move(panel, panel.place, shift) for panel in mine],
            _shift(ways, shift),
            len(mine),
        )
    kept = _match_channels(first, second)
    found, missing = [], 0
    for panel in mine:
        twin = twins[panel.step.name]
        slots = kept.get(panel.step.name)
        lost = twin.shape[0] - panel.shape[0]
        if slots is None:
            missing += 1
            place = replace(panel.place, x=twin.place.x, z=twin.place.z, rank=twin.place.rank)
            found.append(replace(_move(panel, place, shift), lost=max(lost, 0)))
            continue
        at = _move(panel, twin.place, shift)
        found.append(replace(at, slots=slots if lost else None, lost=lost))
    return found, _shift(ways, shift), missing


def _move(panel: Panel, place: Place, shift: float) -> Panel:
    return replace(panel, place=replace(place, x=place.x + shift))


def _shift(ways: Sequence[Way], shift: float) -> list[Way]:
    return [replace(way, via=tuple(x + shift for x in way.via)) for way in ways]


def _match_channels(first: PreparedNetwork, second: PreparedNetwork) -> dict[str, tuple[int, ...]]:
    all_prepared = (first, second)
    counts = tuple(
        {step.name: shape[0] for step, shape in zip(prepared.steps, prepared.shapes, strict=True)}
        for prepared in all_prepared
    )

    def weight(prepared: PreparedNetwork, name: str) -> np.ndarray | None:
        module = _submodule(prepared.network.model, name)
        made = getattr(module, "out_channels", getattr(module, "out_features", None))
        return weights_of(module, made) if module is not None and made else None

    def norm(prepared: PreparedNetwork, name: str) -> np.ndarray | None:
        module = _submodule(prepared.network.model, name)
        held = (
            [
                getattr(module, key, None)
                for key in ("weight", "bias", "running_mean", "running_var")
            ]
            if module is not None
            else []
        )
        rows = [x.detach().float().cpu().numpy() for x in held if isinstance(x, Tensor)]
        same = rows and all(row.ndim == 1 and row.shape == rows[0].shape for row in rows)
        return np.stack(rows, 1) if same else None

    return find_kept_channels(
        first.steps, second.steps, (counts[0], counts[1]),
        (lambda name: weight(first, name), lambda name: weight(second, name)),
        (lambda name: norm(first, name), lambda name: norm(second, name)),
    )  # fmt: skip


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None
