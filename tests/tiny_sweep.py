"""A whole sweep of a tiny model on a file of reviews, driven in a process of its own."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import yaml

from .sweeping import make_inputs, tiny_settings


def tiny_sweep(folder: Path) -> Path:
    """Write `tiny.yaml`, its model and its data, and a token for Ray; returns the folder."""
    (folder / "token").write_text(secrets.token_hex(32))
    settings = tiny_settings(
        make_inputs(folder),
        seeds=8,
        search={"seeds": {"keep": 6, "slices": [4, 8]}, "finetune": {"learning_rate": [0.02, 0.2], "seeds": 2}},
        controls={"random_step": True},
        execution={"seeds_per_batch": 1},
    )
    (folder / "tiny.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder


def command(folder: Path, *arguments: str) -> list[str]:
    """The command that drives the sweep."""
    return [sys.executable, "-m", "raydual.sweep", str(folder / "tiny.yaml"), "--address", "local", *arguments]


def environment(folder: Path) -> dict[str, str]:
    """The environment, with a token of its own for Ray."""
    return {**os.environ, "RAY_AUTH_TOKEN_PATH": str(folder / "token")}


def drive(folder: Path, *arguments: str) -> subprocess.Popen:
    """Start the sweep; its words come on one pipe."""
    return subprocess.Popen(
        command(folder, *arguments), cwd=folder, env=environment(folder), start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
