"""What a report measures of its networks; each quantity once, for sections and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import FilterSurgeonError
from filtersurgeon.learn.evaluate import EvaluationSettings

if TYPE_CHECKING:
    from filtersurgeon.learn.latency import Latency
    from filtersurgeon.learn.networks import Network
    from filtersurgeon.learn.outcomes import Outcome

T = TypeVar("T")


class Measures:
    """Measures of the network of a report, and of the one that it is compared with.

    Every method gives one value per checkpoint, the one in question first, or None where nothing
    can be measured. What fails once is not tried again: the same exception is raised.

    Args:
        checkpoints: one or two.
        networks: theirs; None where one cannot be built.
        data: labelled images, or None.
        settings: batch size and device.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        latency_runs: timed passes; 0 for none.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        networks: Sequence[Network | None],
        data: DataSpec | None = None,
        settings: EvaluationSettings | None = None,
        preprocess: Mapping[str, Any] | None = None,
        latency_runs: int = 0,
    ) -> None:
        self.checkpoints = tuple(checkpoints)
        self.networks = tuple(network for network in networks if network)
        self.data, self.preprocess = data, preprocess
        self.settings = settings or EvaluationSettings()
        self.latency_runs = latency_runs
        self._found: dict[str, Any] = {}

    @property
    def parameters(self) -> tuple[int, ...]:
        """Number of parameters; of a network that cannot be built, of all elements of tensors."""
        from filtersurgeon.learn.measure import count_parameters

        if not self.are_built:
            return tuple(checkpoint.parameters for checkpoint in self.checkpoints)
        return tuple(count_parameters(network.model) for network in self.networks)

    @property
    def are_built(self) -> bool:
        """Tell whether every network could be built."""
        return len(self.networks) == len(self.checkpoints)

    def outcomes(self) -> tuple[Outcome, ...] | None:
        """Evaluate on the labelled images.

        Raises:
            DataError: the images cannot be read, or do not fit.
            ArchitectureError: a network does not run on them.
        """
        from filtersurgeon.learn.evaluating import evaluate

        data = self.data
        if data is None or not self.are_built:
            return None
        return self._once(
            "outcomes",
            lambda: tuple(
                evaluate(checkpoint, data, self.settings, preprocess=self.preprocess)
                for checkpoint in self.checkpoints
            ),
        )

    def macs(self) -> tuple[int, ...] | None:
        """Count multiply-accumulates per image.

        Raises:
            ArchitectureError: a network does not run.
        """
        from filtersurgeon.learn.measure import count_macs
        from filtersurgeon.learn.networks import running

        if not self.are_built:
            return None

        def count() -> tuple[int, ...]:
            with running(self.networks[0].name):
                return tuple(count_macs(x.model, self._image_shape()) for x in self.networks)

        return self._once("macs", count)

    def latencies(self) -> tuple[Latency, ...] | None:
        """Time forward passes on single images, of all networks in turn.

        Raises:
            ArchitectureError: a network does not run.
        """
        from filtersurgeon.learn.latency import measure_latencies
        from filtersurgeon.learn.networks import running

        if not self.are_built or not self.latency_runs:
            return None

        def time() -> tuple[Latency, ...]:
            models = [x.model for x in self.networks]
            with running(self.networks[0].name):
                return tuple(measure_latencies(models, self._image_shape(), 1, self.latency_runs))

        return self._once("latencies", time)

    def _image_shape(self) -> tuple[int, int, int]:
        from filtersurgeon.see.pictures import image_size

        return image_size(self.networks[0])

    def _once(self, name: str, measure: Callable[[], T]) -> T:
        if name not in self._found:
            try:
                self._found[name] = measure()
            except FilterSurgeonError as problem:
                self._found[name] = problem
        found = self._found[name]
        if isinstance(found, FilterSurgeonError):
            raise found
        return found
