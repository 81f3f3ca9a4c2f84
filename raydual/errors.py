"""The one error that a user can cause, and how a command ends on it."""

import difflib
import reprlib
import sys
from collections.abc import Callable, Iterable
from typing import Any


class UserError(Exception):
    """A mistake in the config, data, model, files or cluster: the message names the place and the remedy."""


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
PROCESS_IS_LOST = ("CUDA error", "device-side assert", "cuDNN error", "CUBLAS_STATUS")
"""Words of errors after which nothing can be computed in a process any more."""


def is_of_the_machine(error: BaseException) -> bool:
    """Whether memory ran out or a device failed, which is no mistake in the code that was running."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in (*OUT_OF_MEMORY, *PROCESS_IS_LOST))


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlevel = 3


def shown(value: Any) -> str:
    """A value that was found, as a message quotes it: on one line, long and deep ones cut in the middle."""
    try:
        return _REPR.repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "a number of thousands of digits"


def did_you_mean(found: str, allowed: Iterable[str]) -> str:
    """The end of a message that names what most likely was meant; empty if nothing looks like what was found."""
    close = difflib.get_close_matches(found, list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def exit_on_user_error(command: Callable[[], int | None]) -> int:
    """Run `command`; a `UserError` becomes one line per problem on stderr and exit code 2."""
    try:
        return command() or 0
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
