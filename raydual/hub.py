"""The Hugging Face hub: files and data sets from it or from its cache, each failure one line. Loads no torch.

Whether the hub answers is asked once, so that no request waits for one that doesn't: then the cache serves.
What is named by a commit and cached is read without asking.
"""

import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from raydual.errors import UserError

Found = TypeVar("Found")

_PATIENCE_SECONDS = (3.0, 15.0)
"""How long the hub may take for a first answer; the second time only where the cache can't serve."""
_COMMIT = re.compile("[0-9a-f]{40}")
_BUSY = re.compile(r"HTTP Error (\d{3})")
"""How the client logs a try that it makes again."""
_CLIENTS = ("huggingface_hub", "datasets", "httpx", "httpx2", "filelock")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN, on every machine that loads it"
_WITHOUT_HUB = {
    "model": "set `model` to a local directory (or to `embedded`, which needs no download)",
    "data": "set `data` to a local CSV, JSONL or Parquet file (or to `embedded`)",
}


@dataclass(frozen=True)
class Repository:
    """A model or a data set on the hub, at a revision (None: the newest), and the `setting` that names it."""

    setting: Literal["model", "data"]
    name: str
    revision: str | None = None

    @property
    def words(self) -> str:
        """How a message names it."""
        return f"{self.setting}: {self.name!r}"

    @property
    def page(self) -> str:
        """Its page on the hub."""
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' * (self.setting == 'data')}{self.name}"

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None


class NotThereError(UserError):
    """The repository is there and may be read, but has no such file."""


def model_file(model: Repository, file: str) -> Path:
    """The local path of a file of a model; the folder that it is in is named by the commit.

    Raises
    ------
    NotThereError
        The repository has no such file.
    UserError
        There is no such repository or revision, it may not be read, or neither hub nor cache has it.
    """
    import huggingface_hub

    return _fetched(
        lambda: Path(huggingface_hub.hf_hub_download(model.name, file, revision=model.revision)), model, file
    )


def model_files(model: Repository) -> set[str] | None:
    """The paths of a model's files; None: the hub does not answer.

    Raises
    ------
    UserError
        There is no such repository or revision, or it may not be read.
    """
    import huggingface_hub

    with _quiet():
        if _silence(_PATIENCE_SECONDS[0]):
            return None
        try:
            return set(huggingface_hub.list_repo_files(model.name, revision=model.revision))
        except Exception as error:  # the client raises many kinds
            raise _explained(error, model) from None


def dataset_splits(data: Repository, config: str | None, splits: Sequence[str]) -> list[Any]:
    """The rows (`datasets.Dataset`) of each split of a data set, all of one commit.

    Raises
    ------
    UserError
        There is no such data set, revision or split, it may not be read, or neither hub nor cache has it.
    """
    import datasets

    found = _fetched(
        lambda: datasets.load_dataset(data.name, config, split=list(splits), revision=data.revision),
        data,
        f"the splits {' and '.join(splits)}",
    )
    if data.pinned and not all(_is_of(rows, str(data.revision)) for rows in found):
        raise UserError(f"{data.words}: the cache holds another revision than {data.revision}; {_WITHOUT_HUB['data']}")
    return found


def _is_of(rows: Any, commit: str) -> bool:
    """Whether rows are of a commit: the cache of data sets serves the latest, whatever is asked for."""
    return all(commit in file for file in rows.info.download_checksums or {} if file.startswith("hf://"))


def _fetched(load: Callable[[], Found], repository: Repository, what: str) -> Found:
    """What `load` gives: from the cache if it is there and can't change, else from the hub if that answers."""
    name, reason = f"{what} of {repository.name}", None
    with _quiet() as heard:
        if repository.pinned and repository.setting == "model" and (found := _from_cache(load)):
            return found[0]
        for seconds in _PATIENCE_SECONDS:
            reason = _silence(seconds)
            if reason is None:
                return _from_hub(load, repository, name, heard)
            if found := _from_cache(load):
                if not _told_offline():
                    _note(f"the Hugging Face hub does not answer ({reason}); from the cache: {name}")
                return found[0]
            if _told_offline():
                break
    raise UserError(
        f"{repository.words}: the cache does not have {what}, and {_who_is_silent(reason)}; connect to the hub, or "
        f"{_WITHOUT_HUB[repository.setting]}"
    )


def _from_hub(load: Callable[[], Found], repository: Repository, name: str, heard: list[str]) -> Found:
    try:
        found = load()
    except Exception as error:  # the client raises many kinds
        raise _explained(error, repository, heard) from None
    # `datasets` takes what it has whenever the hub refuses.
    if any("latest cached version" in line for line in heard):
        _note(f"the Hugging Face hub does not give it any more; from the cache: {name}")
    return found


def _from_cache(load: Callable[[], Found]) -> tuple[Found] | None:
    """(what is there,) if it is there whole."""
    with _offline():
        try:
            return (load(),)
        except Exception:
            return None


@cache
def _silence(seconds: float) -> str | None:
    """Why the hub does not answer within so many seconds; None: it does."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if _told_offline():
        return "HF_HUB_OFFLINE is set"
    try:
        status = get_session().head(constants.ENDPOINT, timeout=seconds).status_code
    except Exception as error:  # of the client's HTTP library, which changes with its version
        return str(error) or type(error).__name__
    return f"status {status}" if status >= 500 else None


def _told_offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _who_is_silent(reason: str | None) -> str:
    from huggingface_hub import constants

    if _told_offline():
        return f"{reason}, so that the Hugging Face hub is not asked"
    return f"the Hugging Face hub at {constants.ENDPOINT} does not answer ({reason})"


@cache
def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


@contextmanager
def _offline() -> Iterator[None]:
    """The clients use their caches alone."""
    from huggingface_hub import constants

    places: list[Any] = [place for place in (constants, sys.modules.get("datasets.config")) if place is not None]
    before = [place.HF_HUB_OFFLINE for place in places]
    for place in places:
        place.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """The clients' warnings and progress bars are kept from the screen; the warnings are in the list."""
    from huggingface_hub import utils

    clients = [utils, *filter(None, [sys.modules.get("datasets")])]
    showing = [client for client in clients if not client.are_progress_bars_disabled()]
    heard = _Heard()
    loggers = [logging.getLogger(name) for name in _CLIENTS]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [heard], False
    for client in showing:
        client.disable_progress_bars()
    try:
        yield heard.lines
    finally:
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
        for client in showing:
            client.enable_progress_bars()


class _Heard(logging.Handler):
    """Keeps the lines of what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.lines.append(record.getMessage())


def _explained(error: Exception, repository: Repository, heard: Sequence[str] = ()) -> UserError:
    """What a client's error means for who asked; `heard` are the lines that it logged."""
    from huggingface_hub import errors

    words = repository.words
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    if isinstance(error, errors.GatedRepoError) or "is a gated dataset" in reason:
        return UserError(
            f"{words} is gated on the Hugging Face hub: ask for access at {repository.page}, then {_LOG_IN}"
        )
    if isinstance(error, errors.RevisionNotFoundError) or reason.startswith("Revision "):
        return UserError(
            f"{words} on the Hugging Face hub has no revision {repository.revision!r}; see {repository.page}"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return NotThereError(f"{words} on the Hugging Face hub has no such file")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403) or "cannot be accessed" in reason:
        return UserError(
            f"{words}: the Hugging Face hub has no repository of this name that you may read; check the name, and for "
            f"a private one {_LOG_IN}"
        )
    tries = [found[1] for line in heard if (found := _BUSY.search(line))]
    why = f"it answers with status {tries[-1]}, {len(tries)} times" if tries else f"{type(error).__name__}: {reason}"
    return UserError(
        f"{words} cannot be loaded from the Hugging Face hub ({why}); try again, or {_WITHOUT_HUB[repository.setting]}"
    )
