"""Settings of a conversion to pre-defined filter modules."""

from __future__ import annotations

from dataclasses import dataclass

from filtersurgeon.banks import FilterBank
from filtersurgeon.errors import OptionError, near_misses

PFM, REDUCED = "pfm", "reduced-pfm"
MODULES = (PFM, REDUCED)


@dataclass(frozen=True)
class ModuleSettings:
    """How convolutions become pre-defined filter modules.

    Attributes:
        module: ``pfm``, every filter on every channel; ``reduced-pfm``, one filter per channel
            but for the layers that read the image.
        bank: a bank's name or file, or a bank.
        growth: filters per channel, instead of the module's own number; layers that read the
            image have all of them in any case.
        relu: rectify the filters' results; None does unless the weights are kept.
        trainable: let the filters learn.
        own_filters: let every module learn filters of its own.
        smooth_skips: smooth what strided 1x1 convolutions read; None does unless the weights are
            kept.
        from_weights: express the trained kernels in the bank.
        layers: globs; None converts every convolution that can be.
        seed: of the weights that start anew.

    Raises:
        OptionError: a value without meaning, or values that exclude each other.
    """

    module: str = PFM
    bank: str | FilterBank = "edge-line-16"
    growth: int | None = None
    relu: bool | None = None
    trainable: bool = False
    own_filters: bool = False
    smooth_skips: bool | None = None
    from_weights: bool = False
    layers: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.module not in MODULES:
            raise OptionError(
                f"no module called {self.module!r}{near_misses(self.module, MODULES)}"
            )
        if self.growth is not None and self.growth < 1:
            raise OptionError(f"`growth` {self.growth} should be at least 1")
        if self.own_filters and not self.trainable:
            raise OptionError("`own_filters` are filters that learn: add `trainable`")
        if self.from_weights and self.relu:
            raise OptionError(
                "`from_weights` needs linear modules, and `relu` makes them none; leave one out"
            )

    @property
    def rectifies(self) -> bool:
        """Whether the filters' results are rectified."""
        return not self.from_weights if self.relu is None else self.relu

    @property
    def smooths(self) -> bool:
        """Whether strided 1x1 convolutions read a smoothed image."""
        return not self.from_weights if self.smooth_skips is None else self.smooth_skips

    @property
    def filters(self) -> str:
        """``fixed``, ``shared`` or ``own``, as the edit of the structure says it."""
        if not self.trainable:
            return "fixed"
        return "own" if self.own_filters else "shared"

    def growth_of(self, count: int, reads_image: bool) -> int:
        """Give the filters per channel of a layer, of a bank of so many.

        Raises:
            OptionError: more than there are.
        """
        if self.growth is not None and self.growth > count:
            raise OptionError(f"`growth` {self.growth} is more than the bank's {count} filters")
        if reads_image:
            return count
        return self.growth or (count if self.module == PFM else 1)
