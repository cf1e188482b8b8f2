"""The type of the callbacks that report the progress of a long call."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how many units of work are done, and how many there are."""


def shows_metric(progress: Progress | None) -> bool:
    """Tell whether a callback also shows a metric: it has a method ``tell_metric(text)``."""
    return hasattr(progress, "tell_metric")


def tell_metric(progress: Progress | None, text: str) -> None:
    """Show a metric beside the progress, where the callback can.

    Args:
        progress: the callback, or None.
        text: such as ``top-1 93.39 %``.
    """
    if shows_metric(progress):
        progress.tell_metric(text)  # type: ignore[union-attr]
