"""Where a run may lie, and what happens when it cannot be written: one line, nothing half-written, nothing lost."""

import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path

import pytest

from raydual.errors import UserError
from raydual.pipeline import taken
from raydual.report import write_report
from raydual.report.__main__ import main as report
from raydual.run_directory.directory import RunDirectory
from raydual.run_directory.journal import Journal
from raydual.run_directory.storage import Storage, storage_at
from raydual.statistics.reduce import reduce_run
from raydual.sweep import main as sweep

from .synthetic import synthetic_config, synthetic_run


@pytest.fixture(params=["local", "memory"])
def where(request, tmp_path):
    """A new place, on a disk and on a store that is none."""
    return tmp_path / "run" if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"


# Places


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("hdfs://host/run", "hdfs:// is not supported"),
        ("https://example.org/run", "https:// is not supported"),
        ("s3:/bucket/run", "malformed; write s3://BUCKET/PATH"),
        ("s3://", "malformed"),
        ("s3:///run", "malformed"),
        ("s3://key:secret@bucket/run", "credentials do not belong into an address"),
        ("file://run", "three slashes"),
        ("memory://run", "memory:// ends with the command"),
    ],
)
def test_a_place_that_is_not_supported_is_refused_before_anything_starts(place, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert sweep(["--output", place, "--address", "127.0.0.1:1"]) == 2
    found = capsys.readouterr().err
    assert said in found
    assert found.count("\n") == 1
    assert "secret" not in found
    assert list(tmp_path.iterdir()) == []


def test_a_file_address_is_a_local_path(tmp_path):
    assert storage_at(f"file://{tmp_path}/a%20b").path() == tmp_path / "a b"
    assert storage_at(f"file:{tmp_path}/a").path() == tmp_path / "a"


def test_files_are_written_read_listed_and_removed(where):
    storage = storage_at(where)
    assert storage.list() == []
    storage.make()
    storage.write("a/b.txt", b"one")
    storage.write("a/b.txt", "zwö".encode())
    storage.write("c", b"")
    assert storage.read_text("a/b.txt") == "zwö"
    assert [entry.name for entry in storage.list()] == ["a", "c"]
    assert [entry.name for entry in storage.sub("a").list()] == ["b.txt"]
    assert [entry.name for entry in storage.list(below=True) if not entry.folder] == ["a/b.txt", "c"]
    assert storage.exists("c")
    assert not storage.exists("a")
    storage.rename("c", "d")
    storage.remove("d")
    storage.remove("d")
    assert not storage.exists("d")
    with pytest.raises(FileNotFoundError):
        storage.read("d")


@pytest.mark.long
def test_a_run_is_the_same_wherever_it_lies(where, tmp_path):
    here = synthetic_run(tmp_path / "here", 5, 2, (4,))
    there = synthetic_run(where, 5, 2, (4,))
    for run in (here, there):
        reduce_run(run)
        write_report(run)
    assert there.summary().equals(here.summary())
    assert there.comparisons().equals(here.comparisons())
    names = [entry.name for entry in here.storage.list(below=True) if not entry.folder]
    assert [entry.name for entry in there.storage.list(below=True) if not entry.folder] == names
    figures = [name for name in names if name.startswith("figures/")]
    assert len(figures) > 10
    for name in ("report.html", "summary.json", *figures):
        assert there.storage.read(name) == here.storage.read(name)


def test_an_address_given_as_a_path_is_refused():
    with pytest.raises(UserError, match="is a text, not a path"):
        RunDirectory(Path("s3://bucket/run"))


def test_a_directory_that_was_there_before_stays_with_what_was_in_it(tmp_path):
    (tmp_path / "mine").mkdir()
    with taken(RunDirectory(tmp_path), synthetic_config(3), resume=False):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_path_of_a_run_that_is_not_on_a_disk_is_refused():
    with pytest.raises(UserError, match="not on a local disk"):
        _ = RunDirectory("memory://x/run").summary_file


# New directories


@pytest.mark.parametrize("leave", ["error", "nothing stored"])
def test_a_run_that_stored_nothing_leaves_nothing(where, leave):
    run, config = RunDirectory(where), synthetic_config(3)

    def tried():
        with taken(run, config, resume=False):
            assert run.config() == config
            if leave == "error":
                raise UserError("cluster: it has 1 CPU")

    if leave == "error":
        with pytest.raises(UserError, match="1 CPU"):
            tried()
    else:
        tried()
    assert run.storage.list() == []
    assert not run.storage.local or not run.path.exists()


def test_what_a_killed_run_left_before_it_stored_anything_needs_no_resume(where):
    RunDirectory(where).start(synthetic_config(3))
    run = RunDirectory(where)
    with taken(run, synthetic_config(4), resume=False):
        pass
    RunDirectory(where).start(synthetic_config(3))
    with taken(run, synthetic_config(3), resume=False):
        run.journal().add("seed 1 at 25", {"seed": 1, "examples": 25, "right": 3, "reason": None})
    with pytest.raises(UserError, match="already exists"), taken(run, synthetic_config(3), resume=False):
        pass


def test_a_file_of_the_users_is_not_taken_for_a_leftover(tmp_path):
    (tmp_path / "config.yaml").write_text("# mine\nname: x\n", encoding="utf-8")
    with pytest.raises(UserError, match="already exists"), taken(RunDirectory(tmp_path), synthetic_config(3), False):
        pass
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8").startswith("# mine")


# The journal


def reported(seed: int, examples: int) -> dict:
    return {"seed": seed, "examples": examples, "right": seed % 7, "reason": None}


def test_a_journal_gives_back_what_it_was_given(where):
    storage = storage_at(where)
    for start in range(0, 450, 150):
        journal = Journal(storage, "f")
        assert len(journal.reports) == start
        for seed in range(start, start + 150):
            journal.add(f"seed {seed} at 25", reported(seed, 25))
        journal.add("seed 0 at 25", reported(1, 25))
    found = Journal(storage, "f").reports
    assert found == {f"seed {seed} at 25": reported(seed, 25) for seed in range(450)}


@pytest.mark.parametrize(
    "damage",
    ["not json", '{"key": "x"}', '{"key": 1, "report": {}}', "[]", '{"key": "a", "report": {"seed": 1, "right": 9}}'],
)
def test_a_damaged_line_of_the_journal_is_named_once_and_its_report_made_again(where, damage):
    storage, said = storage_at(where), []
    journal = Journal(storage, "f", said.append)
    for seed in range(3):
        journal.add(f"seed {seed} at 25", reported(seed, 25))
    lines = storage.read_text(journal.name).split("\n")
    lines[-2] = damage
    storage.write(journal.name, "\n".join(lines).encode())
    journal = Journal(storage, "f", said.append)
    assert set(journal.reports) == {"seed 0 at 25", "seed 2 at 25"}
    assert said == [f"{storage.at(journal.name)}, line {len(lines) - 1}: damaged; its report is computed again"]
    journal.add("seed 1 at 25", reported(1, 25))
    assert len(Journal(storage, "f", said.append).reports) == 3
    assert len(said) == 1


def test_half_a_line_at_the_end_of_the_journal_is_no_damage(tmp_path):
    storage, said = storage_at(tmp_path), []
    Journal(storage, "f").add("seed 1 at 25", reported(1, 25))
    whole = storage.read("journal.jsonl")
    storage.write("journal.jsonl", whole + b'\n{"key": "seed 2 at 25", "rep\xc3')
    for seed in (3, 4):
        Journal(storage, "f", said.append).add(f"seed {seed} at 25", reported(seed, 25))
    assert set(Journal(storage, "f", said.append).reports) == {f"seed {seed} at 25" for seed in (1, 3, 4)}
    assert said == []


def test_a_journal_of_other_settings_is_refused_and_an_older_one_is_read(tmp_path):
    storage = storage_at(tmp_path)
    storage.write("journal.jsonl", b'\n{"key": "seed 1 at 25", "report": {"settings": {"epochs": 1}}}')
    assert Journal(storage, "f").reports == {"seed 1 at 25": {"settings": {"epochs": 1}}}
    Journal(storage, "f").add("seed 2 at 25", reported(2, 25))
    with pytest.raises(UserError, match=r"journal\.jsonl, line 3: a report of another sweep"):
        Journal(storage, "g")


# A disk that is full, or cannot be written


def in_namespace(script: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python in a mount namespace of its own, where `mount` may be called."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("the kernel allows no mount namespace")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True, text=True, check=False, timeout=120, env=os.environ,
    )  # fmt: skip
    if "cannot mount" in done.stdout:
        pytest.skip("no file system may be mounted here")
    return done


MOUNT = """
import pathlib, subprocess, sys
from raydual.errors import exit_on_user_error
from raydual.run_directory.directory import RunDirectory, measurement_table
from raydual.report.__main__ import main as report
from raydual.statistics.reduce import reduce_run
from tests.synthetic import synthetic_config, synthetic_rows, synthetic_run
place = pathlib.Path(sys.argv[1])
def mount(*options):
    if subprocess.run(["mount", *options, str(place)]).returncode:
        print("cannot mount"); sys.exit()
def files():
    return {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
mount("-t", "tmpfs", "-o", "size=8m", "tmpfs")
"""


@pytest.mark.long
def test_a_full_disk_is_one_line_and_what_was_finished_is_kept(tmp_path):
    done = in_namespace(
        MOUNT
        + """
run = synthetic_run(place / "run", 4, 2, (), manifest=False)
ballast = place / "ballast"
try:
    ballast.write_bytes(bytes(10**7))
except OSError:
    pass
before = files()
rows = measurement_table(r | {"seed": 9} for r in synthetic_rows(1, 9, ()))
stages = {
    "measure": lambda: run.write_measurements(rows) and None,
    "search": lambda: run.journal().add("x" * 9000, {}),
    "reduce": lambda: reduce_run(run) and None,
    "report": lambda: report([str(place / "run")]),
}
for name, stage in stages.items():
    print(name, exit_on_user_error(stage))
assert files() == before, set(files()) ^ set(before)
ballast.unlink()
print("then", report([str(place / "run")]))
assert not [n for n in files() if n.endswith((".tmp", ".lock"))]
""",
        str(tmp_path),
    )
    said = ["measure 2", "search 2", "reduce 2", "report 2", str(tmp_path / "run/report.html"), "then 0"]
    assert done.stdout.splitlines() == said, done
    errors = done.stderr.splitlines()
    assert len(errors) == 4
    assert all("No space left on device" in line and "free some space" in line for line in errors), errors
    assert all("--resume" in line for line in errors)


@pytest.mark.long
def test_a_disk_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "disk").mkdir()
    done = in_namespace(
        MOUNT + """
run = synthetic_run(place / "run", 4, 2, ())
mount("-o", "remount,ro")
print(report([str(place / "run")]))
print(exit_on_user_error(lambda: run.write_manifest({})))
from raydual.pipeline import taken
def go_on():
    with taken(run, synthetic_config(4), resume=True):
        pass
print(exit_on_user_error(go_on))
print(report([str(place / "run"), "--into", sys.argv[2]]))
""",
        str(tmp_path / "disk"), str(tmp_path / "copy"),
    )  # fmt: skip
    assert done.stdout.splitlines() == ["2", "2", "2", str(tmp_path / "copy/report.html"), "0"], done
    errors = done.stderr.splitlines()
    assert len(errors) == 3
    assert all("Read-only file system" in line and "make it writable" in line for line in errors), errors


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    run = synthetic_run(tmp_path / "run", 3, 1, ())
    path = next(run.measurements.glob("*.parquet"))
    whole = Storage.read

    def forbidden(self, name):
        with self._told(name, "read"):
            if name == path.name:
                raise PermissionError(13, "Permission denied")
        return whole(self, name)

    monkeypatch.setattr(Storage, "read", forbidden)
    with pytest.raises(UserError, match=f"{path}: cannot be read .Permission denied.; make it readable"):
        RunDirectory(run.path).finished()


def test_a_report_of_a_copy_leaves_the_run_as_it_is(where, tmp_path, capsys):
    run = synthetic_run(where, 3, 1, ())
    before = {entry.name: run.storage.read(entry.name) for entry in run.storage.list(below=True) if not entry.folder}
    assert report([str(where), "--into", str(tmp_path / "copy")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "copy" / "report.html")
    assert {e.name: run.storage.read(e.name) for e in run.storage.list(below=True) if not e.folder} == before
    assert report([str(where), "--into", str(tmp_path / "copy")]) == 2
    assert report([str(tmp_path / "nothing"), "--into", str(tmp_path / "other")]) == 2
