"""What a conversion to pre-defined filter modules did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular

SCHEMA = "filtersurgeon.predefined/1"


@dataclass(frozen=True)
class ConvertedLayer:
    """One convolution that became a module.

    Attributes:
        name: of the convolution, and of the module in its place.
        before: shape of its weight, ``(out, in, kh, kw)``.
        filters: number of filters in the bank.
        growth: filters per input channel.
        kernel: height and width of the filters.
        relative_error: of the trained kernels as sums of filters; None where weights start anew.
    """

    name: str
    before: tuple[int, ...]
    filters: int
    growth: int
    kernel: tuple[int, int]
    relative_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of a dry run."""
        found: dict[str, Any] = {
            "name": self.name,
            "before": list(self.before),
            "filters": self.filters,
            "growth": self.growth,
            "kernel": list(self.kernel),
        }
        if self.relative_error is not None:
            found["relative_error"] = self.relative_error
        return found


@dataclass(frozen=True)
class Size:
    """Size and work of a network.

    Attributes:
        parameters: values that learn.
        fixed: values that do not: filters, counted once where modules share them.
        macs: multiplications with an addition, of one image.
    """

    parameters: int
    fixed: int
    macs: int


@dataclass(frozen=True)
class ConversionReport(Tabular):
    """The result of a conversion.

    Attributes:
        converted: the new modules, in the order in which they run.
        left: convolutions that stay as they are, and why.
        smoothed: strided 1x1 convolutions that read a smoothed image now.
        before: the network's size.
        after: the converted network's.
        output_difference: ``||after - before|| / ||before||`` of the outputs on random images;
            None where weights start anew.
    """

    converted: tuple[ConvertedLayer, ...]
    left: tuple[tuple[str, str], ...]
    smoothed: tuple[str, ...]
    before: Size
    after: Size
    output_difference: float | None = None

    def __repr__(self) -> str:
        entries = (f"{x.name}: {x.before}, {x.growth} filters per channel" for x in self.converted)
        return summarise(
            self,
            entries,
            converted=len(self.converted),
            left=len(self.left),
            smoothed=len(self.smoothed),
            parameters=f"{self.before.parameters} -> {self.after.parameters}",
            macs=f"{self.before.macs} -> {self.after.macs}",
        )

    def rows(self) -> Iterator[Row]:
        """Give a row for each convolution, with why it stays as it is if so."""
        for layer in self.converted:
            yield {**layer.to_json(), "left because": ""}
        for name, reason in self.left:
            yield {"name": name, "left because": reason}

    def to_json(self) -> dict[str, Any]:
        """Give the report in its JSON schema, ``filtersurgeon.predefined/1``."""
        found: dict[str, Any] = {
            "schema": SCHEMA,
            "before": vars(self.before),
            "after": vars(self.after),
            "layers": [layer.to_json() for layer in self.converted],
            "left": [{"name": name, "reason": reason} for name, reason in self.left],
            "smoothed": list(self.smoothed),
        }
        if self.output_difference is not None:
            found["output_difference"] = self.output_difference
        return found
