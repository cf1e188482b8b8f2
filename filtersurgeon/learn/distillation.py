"""Knowledge distillation: a network learns from the outputs and features of another network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from filtersurgeon.data.kinds import CLASSES, MULTILABEL
from filtersurgeon.errors import TrainingError
from filtersurgeon.learn.scores import ScoreReader
from filtersurgeon.learn.settings import TrainingRecipe
from filtersurgeon.networks.failing import running

if TYPE_CHECKING:
    from torch import Tensor, nn

_LEAST_SQUARE = 1e-12


def softened_divergence(
    scores: Tensor, targets: Tensor, temperature: float, kind: str | None = CLASSES
) -> Tensor:
    """Compute the divergence of softened class probabilities, scaled by the squared temperature.

    ``T^2 KL(softmax(targets / T) || softmax(scores / T))``, in the mean over images, and over
    pixels of masks. The factor keeps the size of the gradient independent of T. With several
    labels, or one class of pixels, each output is the probability of one label.
    Source: Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015, section 2.

    Args:
        scores: (images, classes) of the network that learns; for masks with rows and columns.
        targets: of the teacher, of the same shape.
        temperature: T, positive.
        kind: of the labels, see ``data/kinds.py``.

    Returns:
        The divergence in nats, a scalar.

    Examples:
        >>> import torch
        >>> scores = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> softened_divergence(scores, scores, 4.0).item()
        0.0
    """
    from torch.nn import functional

    found, expected = scores.float() / temperature, targets.float() / temperature
    if kind == MULTILABEL or scores.shape[1] == 1:
        # A softmax of (x, 0) is the sigmoid of x.
        found, expected = (functional.pad(x[..., None], (0, 1)) for x in (found, expected))
        found, expected = (x.flatten(0, -2) for x in (found, expected))
    elif scores.ndim > 2:
        found, expected = (x.movedim(1, -1).flatten(0, -2) for x in (found, expected))
    found, expected = functional.log_softmax(found, 1), functional.log_softmax(expected, 1)
    divergence = functional.kl_div(found, expected, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def feature_error(features: Iterable[Tensor], targets: Iterable[Tensor]) -> Tensor:
    """Compute the mean squared error of features, relative to their size, in the mean over layers.

    Each layer's error is ``mean((feature - target)^2) / mean(target^2)``, so all layers count the
    same.
    Source: Romero et al., *FitNets: Hints for Thin Deep Nets*, 2015, Eq. 3, without a regressor.

    Args:
        features: of the network that learns, any shape; at least one layer.
        targets: of the teacher, in the same order and of the same shapes.
    """
    import torch

    errors = []
    for feature, target in zip(features, targets, strict=True):
        expected = target.float()
        size = expected.square().mean().clamp(min=_LEAST_SQUARE)
        errors.append((feature.float() - expected).square().mean() / size)
    return torch.stack(errors).mean()


class Distillation:
    """The loss of a network that learns from a teacher.

    With labels it is ``(1 - w) loss(labels) + w softened_divergence + f feature_error``, where w is
    ``teacher_weight`` and f is ``feature_weight``. Without labels it is
    ``softened_divergence + f feature_error``.

    Features are matched by the names of modules. Modules that hold others, such as residual
    blocks, are compared where the outputs of both networks have equal shapes; where there is no
    such module, layers are. Layers that are narrower than the teacher's play no part.

    Args:
        teacher: gives the targets; put in evaluation mode, its parameters frozen.
        recipe: temperature and weights.
        labelled: whether the images have labels.
        kind: of the labels, see ``data/kinds.py``; None where there are none.

    Attributes:
        matched: names of the modules whose outputs are compared; None before the first batch.
    """

    def __init__(
        self,
        teacher: nn.Module,
        recipe: TrainingRecipe,
        labelled: bool = True,
        kind: str | None = CLASSES,
    ) -> None:
        self.kind = kind
        self._read, self._read_teacher = ScoreReader(kind), ScoreReader(kind)
        self.teacher = teacher.eval().requires_grad_(False)
        self.temperature = recipe.temperature
        self.weight = recipe.teacher_weight if labelled else 1.0
        self.feature_weight = recipe.feature_weight
        self.matched: list[str] | None = None if self.feature_weight else []

    def __call__(
        self,
        student: nn.Module,
        run: Callable[[Tensor], Any],
        images: Tensor,
        on_labels: Callable[[Tensor], Tensor],
        autocast: AbstractContextManager[Any] | None = None,
    ) -> Tensor:
        """Compute the loss of one batch.

        Args:
            student: the network that learns; its modules are looked at.
            run: runs it, perhaps wrapped.
            images: (images, channels, height, width), as both networks expect them.
            on_labels: gives the loss of its class scores by the labels.
            autocast: precision of the teacher.

        Raises:
            TrainingError: the teacher has other classes.
            ArchitectureError: it does not take these images.
        """
        import torch

        names = self._candidates(student) if self.matched is None else self.matched
        with (
            torch.no_grad(),
            running("the teacher"),
            autocast or nullcontext(),
            recorded(self.teacher, names) as expected,
        ):
            targets = self._read_teacher(self.teacher, images)
        with recorded(student, names) as found:
            scores = self._read(run, images)
        if scores.shape != targets.shape:
            raise TrainingError(
                f"the teacher gives outputs {_sizes(targets)}, the network {_sizes(scores)}; the "
                "teacher needs the same classes, and maps of the same size"
            )
        loss = self.weight * softened_divergence(scores, targets, self.temperature, self.kind)
        if self.weight < 1:
            loss = loss + (1 - self.weight) * on_labels(scores)
        if self.matched is None:
            self.matched = _match(self.teacher, expected, found)
        if self.matched:
            pairs = [(found[name][0], expected[name][0]) for name in self.matched]
            features, wanted = zip(*pairs, strict=True)
            loss = loss + self.feature_weight * feature_error(features, wanted)
        return loss

    def _candidates(self, student: nn.Module) -> list[str]:
        """Name the modules that both networks have, but for the networks themselves."""
        own = dict(student.named_modules())
        return [name for name, _ in self.teacher.named_modules() if name and name in own]


@contextmanager
def recorded(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, list[Any]]]:
    """Collect what modules return inside the block: name -> one entry per call."""
    outputs: dict[str, list[Any]] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.setdefault(name, []).append(output)
        )
        for name in names
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _match(
    teacher: nn.Module, expected: dict[str, list[Any]], found: dict[str, list[Any]]
) -> list[str]:
    """Choose the modules whose outputs are compared; of modules with one output, the outermost."""
    modules = dict(teacher.named_modules())
    equal = [name for name in modules if _comparable(expected.get(name), found.get(name))]
    blocks = [name for name in equal if any(modules[name].children())]
    chosen: dict[int, str] = {}
    for name in blocks or equal:
        chosen.setdefault(id(expected[name][0]), name)
    return list(chosen.values())


def _sizes(scores: Tensor) -> str:
    """Write the number of classes of scores, and the size of their maps."""
    maps = f" of {scores.shape[3]}x{scores.shape[2]} pixels" if scores.ndim > 2 else ""
    return f"of {scores.shape[1]} classes{maps}"


def _comparable(expected: list[Any] | None, found: list[Any] | None) -> bool:
    """Tell whether a module ran once in each network and gave feature maps of equal shape."""
    from torch import Tensor

    if not expected or not found or len(expected) != 1 or len(found) != 1:
        return False
    first, second = expected[0], found[0]
    tensors = isinstance(first, Tensor) and isinstance(second, Tensor)
    return tensors and first.ndim > 2 and first.is_floating_point() and first.shape == second.shape
