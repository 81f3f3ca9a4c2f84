"""Files that a user names: read only if they are regular files of UTF-8 text; every mistake is a `UserError`."""

import contextlib
import os
import stat
from pathlib import Path

from raydual.errors import UserError, did_you_mean, shown

SWEEPS = next(
    folder for folder in (Path(__file__).parent / "sweeps", Path(__file__).parent.parent / "sweeps") if folder.is_dir()
)
"""The sweeps that come with raydual: beside the package in a checkout, inside it when installed."""
QUICKSTART = SWEEPS / "quickstart.yaml"
"""The sweep that a command takes where none is named."""


def user_path(text: str, base: Path, where: str) -> Path:
    """`text` as an absolute path, read from `base`, with `~` filled in.

    Raises
    ------
    UserError
        It holds a character that no path can have, or names the home of a user who isn't there.
    """
    if "\0" in text:
        raise UserError(f"{where}: a path cannot hold a NUL character, found {shown(text)}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise UserError(f"{where}: {shown(text)} cannot be written as a path") from None
    try:
        path = base / Path(text).expanduser()
    except RuntimeError:
        raise UserError(f"{where}: {shown(text)} is in the home of a user who is not there") from None
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # links in a circle, which is told where the file is read
        return Path(os.path.normpath(path))


def is_directory(path: Path) -> bool:
    """Whether `path` is a directory; no path, however odd, is an error."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def regular_file(path: Path, where: str) -> Path:
    """`path`, if it is a regular file: nothing else is opened, since a pipe would be waited for.

    Raises
    ------
    UserError
        It is not there, or is something else.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        what = "is a link that leads nowhere" if os.path.lexists(path) else f"does not exist{_nearest(path)}"
        raise UserError(f"{where}: it {what}") from None
    except OSError as error:
        raise UserError(f"{where}: {_reason(error)}") from None
    except ValueError:
        raise UserError(f"{where}: a path cannot hold a NUL character") from None
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "a pipe, a device or the like"
        raise UserError(f"{where}: it is {what}, not a file")
    return path


def _nearest(path: Path) -> str:
    """The file beside a missing one that was most likely meant."""
    with contextlib.suppress(OSError, ValueError):
        return did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()])
    return ""


def read_bytes(path: Path, where: str) -> bytes:
    """The content of a regular file.

    Raises
    ------
    UserError
        It cannot be read.
    """
    try:
        return regular_file(path, where).read_bytes()
    except OSError as error:
        raise UserError(f"{where}: {_reason(error)}") from None


def read_text(path: Path, where: str) -> str:
    """The text of a regular UTF-8 file, without a byte order mark.

    Raises
    ------
    UserError
        It cannot be read, or is not UTF-8; the message names the first line that isn't.
    """
    content = read_bytes(path, where)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise UserError(
            f"{where}: line {line} is not UTF-8 text (it holds the byte 0x{byte:02x}); save the file as UTF-8"
        ) from None


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
