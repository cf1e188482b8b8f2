"""What a network's kernels are made of, and which of them matter.

The package is not called like its verb, which would hide ``fs.explain``.
"""
