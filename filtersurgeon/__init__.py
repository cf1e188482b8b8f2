"""filtersurgeon: surgery on the convolution filters of pretrained image networks."""

__version__ = "0.1.0"
