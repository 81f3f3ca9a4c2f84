"""`raydual check`: each thing that is missing is one line with its remedy."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raydual.cluster import check
from raydual.commands import main

ROOT = Path(__file__).parents[1]
FIND_SPEC = importlib.util.find_spec
SHIPPED = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user with all that `ray up` needs, in the root of the repository."""
    (tmp_path / ".ray").mkdir()
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("0" * 64)
    token.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(check.shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: name == "boto3" or FIND_SPEC(name))
    monkeypatch.setattr(check, "_aws_credentials", lambda: True)
    return tmp_path


def problems(folder, **changes):
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(SHIPPED | changes), encoding="utf-8")
    return check.problems(path)


def test_nothing_is_missing(home, capsys):
    assert problems(home) == []
    assert main(["check", "cluster.yaml"]) == 0
    assert capsys.readouterr().out.startswith("cluster.yaml: nothing is missing")


def test_no_token(home):
    (home / ".ray" / "auth_token").unlink()
    (line,) = problems(home)
    assert line.startswith("file_mounts: ~/.ray/auth_token does not exist; `ray get-auth-token --generate")


def test_a_token_that_others_can_read(home):
    (home / ".ray" / "auth_token").chmod(0o644)
    assert problems(home) == [
        "file_mounts: others on this machine can read ~/.ray/auth_token: chmod 600 ~/.ray/auth_token"
    ]


def test_an_empty_token(home):
    (home / ".ray" / "auth_token").write_text("\n")
    (line,) = problems(home)
    assert "holds no token" in line


def test_no_boto3(home, monkeypatch):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None if name == "boto3" else FIND_SPEC(name))
    assert problems(home) == ["provider aws needs boto3, which is not installed: pip install boto3"]


def test_no_credentials(home, monkeypatch):
    monkeypatch.setattr(check, "_aws_credentials", lambda: False)
    (line,) = problems(home)
    assert line.startswith("no AWS credentials on this machine: `aws configure`")


def test_no_rsync(home, monkeypatch):
    monkeypatch.setattr(check.shutil, "which", lambda program: None if program == "rsync" else program)
    (line,) = problems(home)
    assert "rsync" in line


def test_mistyped_keys(home):
    (line,) = problems(home, idle_timeout_minuets=10)
    assert "idle_timeout_minuets" in line


def test_a_wrong_type_is_named_with_its_place(home):
    (line,) = problems(home, max_workers="eight")
    assert line.startswith("max_workers: 'eight' is not")


def test_another_ray_or_an_old_python_in_the_image(home):
    found = problems(home, docker=SHIPPED["docker"] | {"image": "rayproject/ray:2.9.0-py310-gpu"})
    assert [line.split(" has ")[1].split(",")[0] for line in found] == ["Ray 2.9.0", "Python 3.10"]
    assert problems(home, docker=SHIPPED["docker"] | {"image": "registry.example/raydual:0.1.0"}) == []


def test_another_directory(home, monkeypatch):
    monkeypatch.chdir(home)
    (line,) = problems(home)
    assert "is not the root of the repository" in line


def test_a_file_mount_that_is_not_there(home):
    (line,) = problems(home, file_mounts=SHIPPED["file_mounts"] | {"/home/ray/.hub/token": "~/nothing"})
    assert line.startswith("file_mounts: ~/nothing does not exist")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (None, "No such file"),
        ("a: [", "not YAML"),
        ("- a\n", "not a mapping"),
        ("cluster_name: x\n", "'provider' is a required property"),
    ],
)
def test_the_command_ends_with_one_line(tmp_path, text, part):
    path = tmp_path / "cluster.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "raydual", "check", str(path)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert part in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {path}: ")
