"""The type of the callbacks that report the progress of a long call."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how many units of work are done, and how many there are."""
