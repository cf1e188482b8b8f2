"""Hostile input for every reader of the package: `python -m fuzz`, or `make fuzz`."""
