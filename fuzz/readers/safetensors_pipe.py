"""Safetensors from a pipe."""

from filtersurgeon.checkpoint.sources import read_stream
from fuzz.readers.safetensors_file import corpus, repair
from fuzz.scratch import as_pipe, look_through

__all__ = ["corpus", "read", "repair"]


def read(case: bytes) -> None:
    source = as_pipe(case)
    try:
        look_through(read_stream(source))
    finally:
        source.close()
