"""A run directory copied: what has been searched and measured."""

import re

from raydual.errors import UserError
from raydual.run_directory.directory import CONFIG, check_unused
from raydual.run_directory.lock import SUFFIX
from raydual.run_directory.storage import Storage


def copy_run(source: Storage, target: Storage) -> None:
    """Copy what has been searched and measured, of a run or of all cells, to a new place; `source` may be in progress.

    Raises
    ------
    UserError
        There is no run, or something is at the new place.
    """
    check_unused(target)
    kept = [
        entry.name
        for entry in source.list(below=True)
        if not entry.folder
        and not entry.name.endswith((SUFFIX, ".tmp", ".damaged", ".replaced"))
        and _KEPT.search(entry.name)
    ]
    if not kept:
        raise UserError(f"{source}: not a run directory, it holds no {CONFIG}")
    target.make()
    for name in kept:
        target.write(name, source.read(name))


_KEPT = re.compile(
    r"(^|/)(config\.yaml|manifest\.json|additions\.json|cells\.json|(measurements|examples|search)/[^/]+)$"
)
