"""The type of the callbacks that are told how far a long call is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how many units of work are done, and how many there are."""
