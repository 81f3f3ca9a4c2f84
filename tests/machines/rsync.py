"""A stand-in for `rsync --rsh SSH -avz [--exclude PATTERN] SOURCE TARGET`, where there is no rsync: tar through SSH.

It copies everything that is not excluded, as rsync does for a target that is empty.
"""

import io
import shlex
import subprocess
import sys
import tarfile
from fnmatch import fnmatch
from pathlib import Path


def excluded(path: str, is_directory: bool, patterns: list[str]) -> bool:
    """Whether rsync's simple patterns leave out a path: `/a` at the root alone, `a/` for directories alone."""
    for pattern in patterns:
        if pattern.endswith("/") and not is_directory:
            continue
        name = pattern.strip("/")
        if fnmatch(path, name) if pattern.startswith("/") else fnmatch(path.rpartition("/")[2], name):
            return True
    return False


def parse(arguments: list[str]) -> tuple[list[str], list[str], str, str]:
    """(ssh, patterns, source, target)."""
    shell, patterns, paths = ["ssh"], [], []
    while arguments:
        word = arguments.pop(0)
        if word == "--rsh":
            shell = shlex.split(arguments.pop(0))
        elif word == "--exclude":
            patterns.append(arguments.pop(0))
        elif word == "--filter":
            arguments.pop(0)
        elif not word.startswith("-"):
            paths.append(word)
    source, target = paths
    return shell, patterns, source, target


def up(shell: list[str], patterns: list[str], source: str, host: str, target: str) -> int:
    """Copy from here to there."""
    whole = source.endswith("/")
    folder = target if whole else str(Path(target).parent)
    receiver = [*shell, host, f"mkdir -p {folder} && tar -x -p -C {folder}"]

    def keep(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
        path = info.name.removeprefix("./")
        return None if whole and path != "." and excluded(path, info.isdir(), patterns) else info

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(source, arcname="." if whole else Path(target).name, filter=keep)
    return subprocess.run(receiver, input=packed.getvalue(), check=False).returncode


def down(shell: list[str], host: str, source: str, target: str) -> int:
    """Copy from there to here."""
    whole = source.endswith("/")
    folder, name = (source, ".") if whole else (str(Path(source).parent), Path(source).name)
    done = subprocess.run([*shell, host, f"tar -c -C {folder} {name}"], stdout=subprocess.PIPE, check=False, stdin=-3)
    if done.returncode == 0:
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            # As rsync: the last folder of the target is made, those above it are not.
            Path(target).mkdir(exist_ok=True)
            archive.extractall(target, filter="data")
    return done.returncode


def main() -> int:
    """Copy as the command line says."""
    shell, patterns, source, target = parse(sys.argv[1:])
    if ":" in target:
        host, _, path = target.partition(":")
        return up(shell, patterns, source, host, path)
    host, _, path = source.partition(":")
    return down(shell, host, path, target)


if __name__ == "__main__":
    sys.exit(main())
