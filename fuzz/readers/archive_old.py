"""PyTorch archives of the old kind, a row of pickles."""

from fuzz.readers.archive import contents, odd_contents, read, saved

__all__ = ["corpus", "read", "refused"]


def corpus() -> list[bytes]:
    return [saved(content, new=False) for content in contents()]


def refused() -> list[bytes]:
    return [saved(content, new=False) for content in odd_contents()]
