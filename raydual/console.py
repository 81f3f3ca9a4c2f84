"""What a person at the terminal is told, at once: lines, and how far something is.

A terminal shows a bar; a log gets plain lines.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

_SILENT_SECONDS = 2.0
_LOOK_SECONDS = 0.25
_LINE_SECONDS = 10.0


def say(text: str) -> None:
    """Print a line."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print a line beside the results."""
    print(f"note: {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Done:
    """How far something is: `done` of `total` (0: not known), and what is at work, in words."""

    done: float = 0.0
    total: float = 0.0
    words: str = ""

    def counted(self, of: str = " of ") -> str:
        """How much is done: a count, or a share of what is not done whole; nothing if that is not known."""
        if not self.total:
            return ""
        whole = self.total > 1 or self.done == int(self.done)
        return f"{self.done:.0f}{of}{self.total:.0f}" if whole else f"{self.done / self.total:.0%}"

    def line(self, title: str) -> str:
        """One line of a log."""
        return f"{title}: {' '.join(part for part in (self.counted(), self.words) if part) or 'at work'}"


class Bar:
    """A bar at the bottom of a terminal; what is printed meanwhile stands above it."""

    def __init__(self, title: str, file: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        # Stages without a known end have a moving bar.
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[counted]}"), TimeElapsedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[words]}"), console=Console(file=file), transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task(title, total=None, counted="", words="")
        self._progress.start()

    def show(self, found: Done) -> None:
        """Move it."""
        self._progress.update(
            self._task, completed=found.done, total=found.total or None, counted=found.counted("/"), words=found.words
        )

    def close(self) -> None:
        """Take it away."""
        self._progress.stop()


def is_terminal(file: TextIO) -> bool:
    """Whether a person reads a stream while it is written."""
    try:
        return file.isatty()
    except ValueError:  # it is closed
        return False


def bar_in_terminal(title: str) -> Bar | None:
    """A bar below what `say` prints, if that is a terminal."""
    return Bar(title, sys.stdout) if is_terminal(sys.stdout) else None


@contextmanager
def following(
    title: str, look: Callable[[], Done] = Done, *, file: TextIO | None = None, in_log: bool = True,
    silent: float = _SILENT_SECONDS,
) -> Iterator[None]:  # fmt: skip
    """Show how far a block is, if it takes more than `silent` seconds.

    Parameters
    ----------
    look : says how far it is; called by a thread.
    file : where it is shown; default: the stream of errors, which leaves the results alone.
    in_log : whether a log gets lines too, one every ten seconds.
    """
    stream = file or sys.stderr
    terminal, over = is_terminal(stream), threading.Event()
    if not (terminal or in_log):
        yield
        return

    def show() -> None:
        if over.wait(silent):
            return
        bar = Bar(title, stream) if terminal else None
        said = -_LINE_SECONDS
        try:
            while True:
                found = look()
                if bar:
                    bar.show(found)
                elif time.monotonic() - said >= _LINE_SECONDS:
                    said = time.monotonic()
                    print(found.line(title), file=stream, flush=True)
                if over.wait(_LOOK_SECONDS):
                    return
        finally:
            if bar:
                bar.close()

    thread = threading.Thread(target=show, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
