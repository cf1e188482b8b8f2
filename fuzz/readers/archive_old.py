"""PyTorch archives of the old kind, a row of pickles, read with weights_only."""

from fuzz.readers.archive import contents, read, saved

__all__ = ["corpus", "read"]


def corpus() -> list[bytes]:
    return [saved(content, new=False) for content in contents()]
