"""What a cut did: sizes before and after, layer by layer, and where nothing could be cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular

if TYPE_CHECKING:
    from filtersurgeon.graph.cost import Cost
    from filtersurgeon.graph.graph import ChannelGraph
    from filtersurgeon.graph.opened_model import OpenedModel
    from filtersurgeon.graph.weights import WeightLayer
    from filtersurgeon.pruning.plan import Plan
from filtersurgeon.pruning.reconstruction.plan_file import CutPlan
from filtersurgeon.pruning.worth import Worth

SCHEMA = "filtersurgeon.prune/1"
ORIGINAL = "the original"
SILENCED = "the original with the removed channels silenced"
SILENCED_AND_ZEROED = "the original with the kernels zeroed and the removed channels silenced"

_ROUNDING = 1e-5


@dataclass(frozen=True)
class LayerCut:
    """What happened to one convolution or linear layer.

    Attributes:
        name: the module's name.
        out_channels: number of output channels, before and after.
        in_channels: number of input channels, before and after.
        kernels: number of its kernels before.
        zeroed: how many of them were zeroed, removed or not.
        kept_because: why no output channel can be removed, if that is so.
    """

    name: str
    out_channels: tuple[int, int]
    in_channels: tuple[int, int]
    kernels: int
    zeroed: int
    kept_because: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give the entry of a layer in the schema of the report."""
        return {
            "name": self.name,
            "made": self.out_channels,
            "read": self.in_channels,
            "kernels": self.kernels,
            "zeroed": self.zeroed,
            "kept_because": self.kept_because,
        }


@dataclass(frozen=True)
class PruneReport(Tabular):
    """The result of pruning: sizes, layers, checks and notes.

    Attributes:
        before: cost before.
        after: cost after.
        sparsity: the share that was asked for, or found for a target.
        layers: every convolution and linear layer.
        rescued: layers that would have been emptied.
        difference: largest difference from the original network with silent channels, relative to
            its largest output; None if it was not checked.
        notes: remarks for people.
        warnings: what the cut did to the network that was probably not wanted.
        compared: what ``difference`` compares with.
        worth: how the outputs compare with the original network's on real images; None without
            images.
        plan: what was kept of every bundle of channels, where a target was shared out.
        fill: what zeroed kernels that were not cut became: ``zero``, ``fillzero`` or ``restore``.
    """

    before: Cost
    after: Cost
    sparsity: float
    layers: tuple[LayerCut, ...]
    rescued: tuple[str, ...] = ()
    difference: float | None = None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    compared: str = SILENCED
    worth: Worth | None = None
    plan: CutPlan | None = None
    fill: str = "zero"

    def __repr__(self) -> str:
        entries = (
            f"{x.name}: {x.out_channels[0]} -> {x.out_channels[1]} channels" for x in self.layers
        )
        return summarise(
            self,
            entries,
            sparsity=self.sparsity,
            layers=len(self.layers),
            parameters=f"{self.before.parameters} -> {self.after.parameters}",
            macs=f"{self.before.macs} -> {self.after.macs}",
            difference=self.difference,
            notes=len(self.notes) or None,
        )

    def rows(self) -> Iterator[Row]:
        """Give a row for each convolution and linear layer."""
        for x in self.layers:
            yield {
                "layer": x.name,
                "out channels before": x.out_channels[0],
                "out channels": x.out_channels[1],
                "in channels before": x.in_channels[0],
                "in channels": x.in_channels[1],
                "kernels": x.kernels,
                "kernels zeroed": x.zeroed,
                "kept because": x.kept_because,
            }

    @property
    def unchanged(self) -> bool:
        """Whether the outputs were found to be those of the original network."""
        if self.compared != ORIGINAL or self.difference is None:
            return False
        return self.difference <= _ROUNDING

    @property
    def zeroed(self) -> tuple[int, int]:
        """Spatial kernels that were zeroed, and all of them; (0, 0) where none is zeroed."""
        return sum(x.zeroed for x in self.layers), sum(x.kernels for x in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Give the report in its JSON schema, ``filtersurgeon.prune/1``."""
        zeroed, kernels = self.zeroed
        return {
            "schema": SCHEMA,
            "sparsity": self.sparsity,
            "parameters": [self.before.parameters, self.after.parameters],
            "macs": [self.before.macs, self.after.macs],
            "share_pruned": 1 - self.after.parameters / self.before.parameters,
            "kernels": kernels,
            "kernels_zeroed": zeroed,
            "difference": self.difference,
            "rescued": list(self.rescued),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "worth": None if self.worth is None else asdict(self.worth),
            "layers": [layer.to_json() for layer in self.layers],
        }


def make_report(opened: OpenedModel, plan: Plan, sparsity: float) -> PruneReport:
    """Describe a plan."""
    from filtersurgeon.graph.cost import Cost, CostModel
    from filtersurgeon.graph.emptied import stand_in

    model, standing = CostModel(opened.graph), stand_in(opened, plan.keep)
    before = model.cost(plan.keep | True)
    after = model.cost(standing.keep, standing.gone)
    after = Cost(after.parameters + standing.more_biases(opened), after.macs)
    cuts = tuple(_layer_cut(opened.graph, layer, plan) for layer in opened.makers)
    return PruneReport(before, after, sparsity, cuts, plan.rescued)


def _layer_cut(graph: ChannelGraph, layer: WeightLayer, plan: Plan) -> LayerCut:
    from filtersurgeon.graph.weights import count_kept

    groups = graph.groups
    weight = graph.network.get_parameter(layer.tensor)
    out_size, in_size = layer.count_channels(weight)
    out_channels = out_size, count_kept(layer.out_channels, out_size, plan.keep, groups.of)
    in_channels = in_size, count_kept(layer.in_channels, in_size, plan.keep, groups.of)
    mask = plan.zeroed.get(layer.name)
    kernels, zeroed = (mask.size, int(mask.sum())) if mask is not None else (0, 0)
    because = ""
    if layer.out_channels is not None:
        members = groups.members(layer.out_channels)
        if groups.pinned[members].all():
            because = str(next(iter(graph.causes.pins(members)), ""))
    return LayerCut(layer.name, out_channels, in_channels, kernels, zeroed, because)
