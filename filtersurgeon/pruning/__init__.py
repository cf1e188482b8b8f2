"""Choosing channels, cutting them out, and proving the cut."""
