"""The command line: parses, calls one public function, and shows what it returned."""

from filtersurgeon.cli.application import main

__all__ = ["main"]
