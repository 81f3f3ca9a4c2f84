"""The one error that a user can cause, and how a command ends on it."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake in the config, data, model, files or cluster: the message names the place and the remedy."""


def exit_on_user_error(command: Callable[[], int | None]) -> int:
    """Run `command`; a `UserError` becomes one line per problem on stderr and exit code 2."""
    try:
        return command() or 0
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
