"""Exporters talk a lot, and fail at length."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

from filtersurgeon.errors import FilterSurgeonError, OptionError, ran_out_of_memory


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Keep the block's warnings and prints to itself, and turn its failure into one line.

    Raises:
        OptionError: it failed; names what was tried and the reason.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except FilterSurgeonError:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        # Exporters raise what any operator of the network makes them raise.
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = (lines or [type(error).__name__])[0][:300]
        raise OptionError(f"torch cannot {what}: {reason}") from error
    finally:
        logging.disable(disabled)
