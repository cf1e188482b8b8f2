"""Spectra and bases of the kernels of a network."""
