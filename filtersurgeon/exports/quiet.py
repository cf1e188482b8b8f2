"""Exporters talk a lot, and fail at length."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator

from filtersurgeon.errors import FilterSurgeonError, OptionError, ran_out_of_memory
from filtersurgeon.networks.failing import told, unlogged


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Keep the block's warnings and prints to itself, and turn its failure into one line.

    Raises:
        OptionError: it failed; names what was tried and the reason.
    """
    try:
        with unlogged(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except FilterSurgeonError:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        # Exporters raise what any operator of the network makes them raise.
        raise OptionError(told(f"torch cannot {what}: ", error)) from error
