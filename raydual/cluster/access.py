"""Who reaches the Ray that a sweep starts on its own machine: nobody beyond it, and on it who has the token."""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray._private import ray_constants

from raydual.errors import UserError

_FOR_ITS_OWNER = 0o600


@contextmanager
def on_loopback() -> Iterator[None]:
    """Within it, the Ray that is started takes the loopback address for its own, and binds all of its ports to it.

    Ray does so by itself on macOS and Windows. Elsewhere it replaces a loopback address that it is given by the
    machine's own. The variable that says otherwise is read when Ray is imported, before it is known whether a cluster
    will be joined: so it is set for Ray's processes, and what was read for this one.
    """
    variable, read = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    before = os.environ.get(variable)
    os.environ[variable], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = read
        os.environ.pop(variable)
        if before is not None:
            os.environ[variable] = before


def guard_token() -> None:
    """See to it that there is a token for a Ray that is started here, in a file that its owner alone can read.

    Ray would make one that is readable for all.

    Raises
    ------
    UserError
        There is none where `RAY_AUTH_TOKEN_PATH` names it, or none can be written.
    """
    if not _by_file():
        return
    check_token_path()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        if not path.exists():
            _write_token(path)
        found = path.stat()
    except OSError as error:
        raise UserError(
            f"{path}: Ray's token cannot be kept there ({error.strerror}); "
            "name a file that holds one (RAY_AUTH_TOKEN_PATH)"
        ) from None
    if stat.S_IMODE(found.st_mode) & ~_FOR_ITS_OWNER and hasattr(os, "getuid") and found.st_uid == os.getuid():
        with suppress(OSError):  # a file system that has no modes, or is read-only
            path.chmod(_FOR_ITS_OWNER)


def check_token_path() -> None:
    """Check that there is a token where the user says that there is one.

    Raises
    ------
    UserError
        `RAY_AUTH_TOKEN_PATH` names a file that cannot be read, or is empty.
    """
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not named or not _by_file():
        return
    try:
        reason = "" if Path(named).read_text(encoding="utf-8").strip() else "the file is empty"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
    if reason:
        raise UserError(
            f"RAY_AUTH_TOKEN_PATH={named}: no token can be read there ({reason}); "
            "write one (`ray get-auth-token --generate` makes ~/.ray/auth_token), or unset the variable"
        )


def _by_file() -> bool:
    """Whether it is a file that says the token, if there is one."""
    return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" and not os.environ.get("RAY_AUTH_TOKEN")


def _write_token(path: Path) -> None:
    """Write a new token; of several processes that do so at once, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _FOR_ITS_OWNER), "w") as file:
            file.write(secrets.token_hex(32))
        with suppress(FileExistsError):
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
