"""`python -m raydual.report` is `raydual report`."""

import sys
from collections.abc import Sequence

from raydual.commands import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command("report", "python -m raydual.report", arguments)


if __name__ == "__main__":
    sys.exit(main())
