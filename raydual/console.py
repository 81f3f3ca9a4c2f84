"""What a person at the terminal is told, at once."""

import sys


def say(text: str) -> None:
    """Print a line."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print a line beside the results."""
    print(f"note: {text}", file=sys.stderr, flush=True)
