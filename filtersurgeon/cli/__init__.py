"""The command line: parses, calls one public function, and shows what it returned."""

import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if "_FSURGEON_COMPLETE" in os.environ:
        # typer wraps the words' helps at this width, and fish takes every line for a word.
        os.environ["COLUMNS"] = "10000"
    try:
        from filtersurgeon.cli.application import run_application
    except KeyboardInterrupt:  # while modules load
        sys.exit(130)
    except Exception as error:  # a damaged installation, or no memory
        if os.environ.get("FSURGEON_DEBUG", "0") not in ("", "0"):
            raise
        text = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        print(f"error: fsurgeon cannot start ({text}); install it again", file=sys.stderr)
        sys.exit(2)
    run_application()
