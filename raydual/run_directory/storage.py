"""Where a run lies: a local directory or an object store. Files are read, and written whole or not at all."""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from raydual.errors import UserError

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/+)(.*)", re.DOTALL)
_GCS_PATIENCE = timedelta(seconds=20)
RESUME = "what is finished is kept, go on with --resume"


@dataclass(frozen=True)
class Entry:
    """A file or folder, with its size in bytes and the store's own time of its last change, in seconds."""

    name: str
    size: int
    changed: float
    folder: bool


class Storage:
    """A folder of some file system; names in it are relative, with slashes.

    Parameters
    ----------
    filesystem, root : where the files are.
    shown : how the folder is named to a person.
    local : whether it is a directory of this machine.
    hint : what a person is told beside the remedy when a file cannot be written.
    """

    def __init__(self, filesystem: Any, root: str, shown: str, *, local: bool, hint: str = "") -> None:
        self.filesystem, self.root, self.shown, self.local, self.hint = filesystem, root, shown, local, hint
        self.guard: Callable[[], None] | None = None
        self.above: Storage | None = None

    def __str__(self) -> str:
        return self.shown

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process does not write, and what guards this one cannot go there.
        return {**self.__dict__, "guard": None}

    def sub(self, folder: str) -> "Storage":
        """A folder in this one."""
        below = Storage(self.filesystem, self.full(folder), self.at(folder), local=self.local, hint=self.hint)
        below.above = self
        return below

    def at(self, name: str) -> str:
        """A file as a person names it."""
        return f"{self.shown.rstrip('/')}/{name}"

    def full(self, name: str) -> str:
        """A file as the file system names it."""
        return f"{self.root}/{name}" if name else self.root

    def path(self, name: str = "") -> Path:
        """A file as a path of this machine.

        Raises
        ------
        UserError
            The folder is on an object store.
        """
        if not self.local:
            raise UserError(f"{self.at(name)}: not on a local disk; read it through the run's `storage`")
        return Path(self.root) / name

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        with self._told(name, "read"):
            return self.filesystem.get_file_info(self.full(name)).type == fs.FileType.File

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self._told(name, "read"), self.filesystem.open_input_stream(self.full(name)) as file:
            return file.read()

    def read_text(self, name: str) -> str:
        """The content of a text file."""
        try:
            return self.read(name).decode("utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{self.at(name)}: damaged, it is not UTF-8 text") from None

    def list(self, folder: str = "", *, below: bool = False) -> list[Entry]:
        """What lies in a folder, by name; with `below` in all under it too. Empty if there is no such folder."""
        where = self.full(folder)
        selector = fs.FileSelector(where, allow_not_found=True, recursive=below)
        with self._told(folder, "read"):
            found = self.filesystem.get_file_info(selector)
        entries = [
            Entry(
                i.path.lstrip("/")[len(where.lstrip("/")) :].lstrip("/"),
                i.size or 0,
                (i.mtime_ns or 0) / 1e9,
                i.type == fs.FileType.Directory,
            )
            for i in found
        ]
        return sorted((entry for entry in entries if entry.name), key=lambda entry: entry.name)

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file whole or not at all: a store's put is atomic, a local file is renamed into its place."""
        self._guarded()
        with self._told(name, "written"):
            if self.local:
                _replace(Path(self.full(name)), data)
            else:
                with self.filesystem.open_output_stream(self.full(name)) as file:
                    file.write(data)

    def write_page(self, name: str, page: str) -> Path | str:
        """Write a text file; returns where a person finds it."""
        self.write(name, page.encode())
        return self.path(name) if self.local else self.at(name)

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a local file, all of it or nothing."""
        self._guarded()
        path = Path(self.full(name))
        with self._told(name, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            _append(path, data)

    def touch(self, name: str) -> None:
        """Renew the time of a file's last change; the file must be there."""
        if self.local:
            os.utime(self.full(name))
        elif self.exists(name):
            self.write(name, self.read(name))
        else:
            raise FileNotFoundError(self.full(name))

    def rename(self, name: str, new: str) -> None:
        """Give a file, or on a local disk whatever has that name, another name in the same storage."""
        self._guarded()
        with self._told(name, "moved"):
            self.filesystem.move(self.full(name), self.full(new))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._told(name, "removed"), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.full(name))

    def make(self, *folders: str) -> bool:
        """Make the folder itself and some in it; an object store needs none. Whether the folder itself is new."""
        if not self.local:
            return not self.list()
        new = not Path(self.full("")).exists()
        for folder in ("", *folders):
            with self._told(folder, "written"):
                Path(self.full(folder)).mkdir(parents=True, exist_ok=True)
        return new

    def remove_empty(self, *folders: str, itself: bool) -> None:
        """Remove some folders, and with `itself` this one, if no file is in or under any of them."""
        if self.local:
            for folder in (*folders, *([""] if itself else [])):
                with contextlib.suppress(OSError):
                    Path(self.full(folder)).rmdir()
        elif all(entry.folder for entry in self.list(below=True)):
            with contextlib.suppress(OSError):
                self.filesystem.delete_dir(self.root)

    def _guarded(self) -> None:
        if self.guard is not None:
            self.guard()
        if self.above is not None:
            self.above._guarded()

    @contextmanager
    def _told(self, name: str, done: str) -> Iterator[None]:
        """An error of the file system becomes one line that names the file and the remedy."""
        try:
            yield
        except FileNotFoundError:
            if done != "written":
                raise
            raise UserError(f"{self.at(name)}: cannot be {done} (its directory is gone); make it again") from None
        except (OSError, pa.ArrowException) as error:
            reason, remedy = _explained(error, done == "read")
            hint = f"; {self.hint}" if self.hint and done != "read" else ""
            shown = self.at(name) if name else self.shown
            raise UserError(f"{shown}: cannot be {done} ({reason}); {remedy}{hint}") from None


def _replace(path: Path, data: bytes | pa.Buffer) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb", buffering=0) as file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        try:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(end)
            if not end:
                path.unlink()
            raise


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}
_STORES = {
    "NO_SUCH_BUCKET": ("there is no such bucket", "make the bucket first, or name another"),
    "NETWORK_CONNECTION": ("no connection to the object store", "check the network and AWS_ENDPOINT_URL"),
    "SLOW_DOWN": ("the object store asks to slow down", "try again later"),
}
_CREDENTIALS = (
    "check the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or the machine's role), what they "
    "may do, and AWS_DEFAULT_REGION"
)


def _explained(error: Exception, reading: bool) -> tuple[str, str]:
    """Why a file system refused, and what a person can do."""
    number, text = getattr(error, "errno", None), " ".join(str(error).split())
    store = re.search(r"AWS Error (\w+) during (\w+) operation", text)
    if store:
        reason, remedy = _STORES.get(store[1], (f"the object store answers {store[1]} to {store[2]}", _CREDENTIALS))
        return reason, remedy
    if "google::cloud" in text or "GetObjectMetadata" in text:
        return text[:200], "check the bucket, the network and the credentials (GOOGLE_APPLICATION_CREDENTIALS)"
    reason = os.strerror(number) if number else text.split(". Detail")[0][:200]
    if number in _FULL:
        return reason, "the disk is full or its quota is used up: free some space"
    if number in _FORBIDDEN:
        return reason, "make it readable" if reading else "make it writable, or name another directory by --output"
    return reason, "check the disk and what lies there"


def storage_at(where: Path | str, hint: str = "") -> Storage:
    """The storage at a local path or a URL: `s3://bucket/…`, `gs://bucket/…`, `file:///…`, `memory://…`.

    Object stores take credentials and addresses from the environment as their own tools do. `memory://` lasts as
    long as the process.

    Raises
    ------
    UserError
        The URL is malformed, or its scheme is not one of these; or the object store cannot be reached.
    """
    if isinstance(where, Path) and where.parts[:1] and where.parts[0].lower() in {f"{name}:" for name in _FILESYSTEMS}:
        raise UserError(f"{where}: an address of an object store is a text, not a path")
    url = None if isinstance(where, Path) else _URL.match(where)
    if url is None:
        return Storage(fs.LocalFileSystem(), str(where), str(where), local=True, hint=hint)
    scheme, slashes, rest = url[1].lower(), url[2], url[3]
    if scheme == "file":
        if len(slashes) == 2 and not rest.startswith("localhost/"):
            raise UserError(f"{where}: a file:// address needs three slashes and a whole path: file:///home/me/run")
        path = "/" + unquote(rest.removeprefix("localhost/") if len(slashes) == 2 else rest)
        return storage_at(Path(path), hint)
    if scheme not in _FILESYSTEMS:
        raise UserError(f"{where}: {scheme}:// is not supported; name a local directory, s3://… or gs://…")
    bucket, _, key = rest.rstrip("/").partition("/")
    if len(slashes) != 2 or not bucket:
        raise UserError(f"{where}: malformed; write {scheme}://BUCKET/PATH")
    if "@" in bucket:
        raise UserError(f"{scheme}://…@…: credentials do not belong into an address; set them in the environment")
    root = f"{bucket}/{key}" if key else bucket
    shown = f"{scheme}://{root}"
    try:
        return Storage(_FILESYSTEMS[scheme](bucket), root, shown, local=False, hint=hint)
    except (OSError, pa.ArrowException, ValueError) as error:
        reason, remedy = _explained(error, reading=True)
        raise UserError(f"{shown}: cannot be reached ({reason}); {remedy}") from None


def _s3(bucket: str) -> Any:
    # Of pyarrow's ways to S3 only this one heeds AWS_ENDPOINT_URL and finds the bucket's region.
    filesystem, _ = fs.FileSystem.from_uri(f"s3://{bucket}")
    return filesystem


def _gcs(bucket: str) -> Any:
    return fs.GcsFileSystem(
        anonymous="CLOUD_STORAGE_EMULATOR_ENDPOINT" in os.environ, retry_time_limit=_GCS_PATIENCE
    )  # fmt: skip


def _memory(bucket: str) -> Any:
    from fsspec.implementations.memory import MemoryFileSystem

    return fs.PyFileSystem(fs.FSSpecHandler(MemoryFileSystem()))


_FILESYSTEMS: dict[str, Callable[[str], Any]] = {"s3": _s3, "gs": _gcs, "gcs": _gcs, "memory": _memory}


def lasting(where: Path | str) -> Path | str:
    """`where`, if what is written there outlasts the process.

    Raises
    ------
    UserError
        It is `memory://`.
    """
    if str(where).lower().startswith("memory:"):
        raise UserError(
            f"{where}: memory:// ends with the command, and the results with it; name a directory, s3://… or gs://…"
        )
    return where
