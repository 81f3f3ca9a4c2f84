"""`python -m raydual.sweep` is `raydual sweep`."""

import sys
from collections.abc import Sequence

from raydual.commands import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command("sweep", "python -m raydual.sweep", arguments)


if __name__ == "__main__":
    sys.exit(main())
