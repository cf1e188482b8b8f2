"""What is known about a pruned network's worth: how its outputs compare on real images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from filtersurgeon.data.kinds import CLASSES, MULTILABEL
from filtersurgeon.learn.outcomes import make_counter
from filtersurgeon.learn.scores import ScoreReader
from filtersurgeon.networks.outputs import as_numbers, find_scores, find_tensors

ENOUGH = 0.9
"""Share of images that keep their class, below which a network is not called good."""

_CHANCE = 3.0
_FEW = 16
"""Images below which neither chance nor one class for all of them says anything."""
_ONE_CLASS = 0.95
_AREA = "mean ROC AUC"
_IMAGES = 256


@dataclass(frozen=True)
class Worth:
    """How a pruned network compares with the original one.

    Attributes:
        images: how many images both were shown.
        held_out: whether nothing was fitted to these images.
        agreement: share of images for which both name the same class; None for networks that do
            not classify.
        divergence: mean Kullback-Leibler divergence of the classes' probabilities, in nats, or the
            mean squared error of the outputs relative to their variance.
        top1: accuracies of the original and the pruned one; None without labels of the network's
            own classes.
        chance: the accuracy that guessing would reach on these images; None without ``top1``.
        commonest: share of images that get the most frequent class, of the original and of the
            pruned network; None for networks that do not classify.
        score: of the original and of the pruned network, for images with several labels or masks.
        metric: which score it is: ``mean ROC AUC`` or ``mean Dice``.
    """

    images: int
    held_out: bool
    agreement: float | None
    divergence: float
    top1: tuple[float, float] | None = None
    chance: float | None = None
    commonest: tuple[float, float] | None = None
    score: tuple[float, float] | None = None
    metric: str | None = None

    @property
    def at_chance(self) -> bool:
        """Whether the pruned network is right no more often than a guess."""
        if self.top1 is None or self.chance is None or self.images < _FEW:
            return False
        return self.top1[1] <= self.chance

    @property
    def collapsed(self) -> bool:
        """Whether nearly all images get one class, which they did not before."""
        if self.commonest is None or self.images < _FEW:
            return False
        before, after = self.commonest
        return after >= _ONE_CLASS > before

    @property
    def fell(self) -> bool:
        """Whether a tenth of the score is lost, for images with several labels or masks."""
        if self.score is None or (self.metric == _AREA and self.images < _FEW):
            return False
        before, after = self.score
        return after < ENOUGH * before

    @property
    def guesses(self) -> bool:
        """Whether the pruned network orders images with several labels no better than a guess."""
        return (
            self.fell and self.metric == _AREA and self.score is not None and self.score[1] <= 0.5
        )

    @property
    def poor(self) -> bool:
        """Whether a tenth of the images change class, or of the variance or the score is lost."""
        return self.below(ENOUGH) or self.fell

    def below(self, share: float) -> bool:
        """Tell whether fewer images keep their class, or less of the outputs' variance is left."""
        if self.agreement is None:
            return self.divergence > 1 - share
        return self.agreement < share

    def describe(self) -> str:
        """Say it in one line."""
        seen = f"{self.images} {'held-out ' if self.held_out else ''}images"
        if self.agreement is None:
            words = f"outputs differ by {self.divergence:.1%} of their variance on {seen}"
            if self.score is not None:
                words += f", {self.metric} {self.score[0]:.1%} -> {self.score[1]:.1%}"
            return words
        words = f"same class on {self.agreement:.1%} of {seen}, KL {self.divergence:.2g}"
        if self.top1 is not None:
            before, after = self.top1
            words += f", top-1 {before:.1%} -> {after:.1%}"
            words += " (chance)" if self.at_chance else ""
        return words


def class_divergence(expected: Tensor, found: Tensor) -> Tensor:
    """Give the Kullback-Leibler divergence of the classes' probabilities, image by image.

    Args:
        expected: ``(images, classes)``, scores of the original network.
        found: of the other one.

    Returns:
        Shape ``(images,)``, in nats.
    """
    before, after = functional.log_softmax(expected, 1), functional.log_softmax(found, 1)
    return (before.exp() * (before - after)).sum(1)


def relative_error(expected: Tensor, found: Tensor) -> Tensor:
    """Give the mean squared error of outputs relative to their variance, image by image.

    Args:
        expected: ``(images, numbers)``, of the original network.
        found: of the other one.

    Returns:
        Shape ``(images,)``.
    """
    spread = (expected - expected.mean()).square().mean().clamp(min=1e-30)
    return (expected - found).square().mean(1) / spread


class Comparison:
    """Compares outputs of two networks, batch by batch.

    Args:
        reader: reads the scores that go with the labels; None for one class for each image.
        names: of the classes of several labels.
    """

    def __init__(self, reader: ScoreReader | None = None, names: Sequence[str] = ()) -> None:
        self.reader, self._names = reader or ScoreReader(CLASSES), names
        self.counts = self.reader.kind != CLASSES
        """Whether scores are counted by labels of another kind."""
        self._counters: list[Any] = []
        self._expected: list[Tensor] = []
        self._found: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._errors: list[float] = []
        self._images = 0
        self._classes = self.reader.kind != MULTILABEL

    def add(self, expected: object, found: object, labels: Tensor | None = None) -> None:
        """Take in what both returned for some images.

        Args:
            expected: of the original network.
            found: of the pruned one.
            labels: ``(images,)``, or as the kind of labels is; or None.
        """
        if self.counts and labels is not None:
            self._count((expected, found), labels)
        one, other = find_scores(expected), find_scores(found)
        if not self._classes or one is None or other is None or one.ndim != 2 or one.shape[1] < 2:
            self._classes = False
            one = torch.cat([x.tensor.flatten(1) for x in find_tensors(expected)], dim=1)
            other = torch.cat([x.tensor.flatten(1) for x in find_tensors(found)], dim=1)
        one, other = as_numbers(one), as_numbers(other)
        self._images += len(one)
        if self._classes:
            self._expected.append(one.cpu())
            self._found.append(other.cpu())
            if labels is not None:
                self._labels.append(labels.cpu())
        else:
            self._errors += relative_error(one, other).tolist()

    def worth(self, *, held_out: bool) -> Worth:
        """Sum up."""
        if not self._classes:
            error = sum(self._errors) / len(self._errors)
            return Worth(self._images, held_out, None, error, **self._scores())
        one, other = torch.cat(self._expected), torch.cat(self._found)
        lost = class_divergence(one, other).mean()
        same = (one.argmax(1) == other.argmax(1)).double().mean()
        top1, chance = self._top1(one, other)
        commonest = _commonest(one.argmax(1)), _commonest(other.argmax(1))
        return Worth(
            self._images, held_out, float(same), max(0.0, float(lost)), top1, chance, commonest
        )

    def _count(self, outputs: Sequence[object], labels: Tensor) -> None:
        """Count the scores of both networks by their labels."""
        scores = [self.reader.logits(each, labels.shape[1:]) for each in outputs]
        labels = labels.to(scores[0].device)
        if not self._counters:
            kind, count = str(self.reader.kind), scores[0].shape[1]
            self._counters = [
                make_counter(kind, count, labels.device, self._names) for _ in outputs
            ]
        for counter, each in zip(self._counters, scores, strict=True):
            counter.update(each, labels)

    def _scores(self) -> dict[str, Any]:
        """Give the scores of both networks, where labels tell them."""
        found = [counter.result(0.0) for counter in self._counters]
        if not found or any(isnan(each.score) for each in found):
            return {}
        return {"score": (found[0].score, found[1].score), "metric": found[0].score_name}

    def _top1(self, one: Tensor, other: Tensor) -> tuple[tuple[float, float] | None, float | None]:
        """Give both accuracies and chance, if the labels are of the network's own classes."""
        if sum(map(len, self._labels)) != len(one):
            return None, None
        labels, classes = torch.cat(self._labels), one.shape[1]
        if labels.min() < 0 or labels.max() >= classes or len(labels.unique()) < 2:
            return None, None
        first, second = (float((x.argmax(1) == labels).double().mean()) for x in (one, other))
        if first <= _CHANCE / classes:
            return None, None
        # A guess is right for one in so many classes, give or take the standard error; naming one
        # class for all images, for the share of that class.
        error = (1 / classes * (1 - 1 / classes) / len(labels)) ** 0.5
        return (first, second), max(1 / classes + error, _commonest(labels))


def _commonest(classes: Tensor) -> float:
    """Give the share of the most frequent class."""
    return float(classes.bincount().max()) / len(classes)


@torch.no_grad()
def compare_worth(
    original: nn.Module,
    pruned: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    kind: str = CLASSES,
    names: Sequence[str] = (),
) -> Worth:
    """Run two networks on the same images, some hundreds of them.

    Args:
        original: in evaluation mode.
        pruned: in evaluation mode.
        batches: images and labels; negative classes are none.
        kind: of the labels, see ``data/kinds.py``.
        names: of the classes of several labels.
    """
    comparison, seen = Comparison(ScoreReader(kind), names), 0
    for images, labels in batches:
        if comparison.counts and not seen:
            comparison.reader(original, images[:1])  # finds how the network ends
        comparison.add(original(images), pruned(images), labels)
        seen += len(images)
        if seen >= _IMAGES:
            break
    return comparison.worth(held_out=False)
