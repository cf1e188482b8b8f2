"""The command line: parses, calls one public function, and shows what it returned."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from filtersurgeon.cli.application import run_application
    except KeyboardInterrupt:  # while modules load
        sys.exit(130)
    run_application()
