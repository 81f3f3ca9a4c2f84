"""Whole sweeps on disks that fill up, or on directories that cannot be used: one line, nothing lost, nothing left."""

import shlex
import subprocess

import pytest

from raydual.run_directory.directory import RunDirectory

from .tiny_sweep import command, drive, environment, tiny_sweep

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_sweep(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def undisturbed(tiny, tmp_path_factory):
    run = RunDirectory(tmp_path_factory.mktemp("undisturbed") / "run")
    said, _ = (process := drive(tiny, "--output", str(run))).communicate(timeout=300)
    assert process.returncode == 0, said
    return run


def test_a_disk_that_fills_up_in_every_stage_loses_nothing(undisturbed, tiny, tmp_path):
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("the kernel allows no mount namespace")
    disk, saved = tmp_path / "disk", tmp_path / "saved"
    disk.mkdir()
    go = shlex.join(command(tiny, "--output", str(disk / "run")))
    steps = [f"mount -t tmpfs -o size=16k tmpfs {disk} || exit 77"]
    for stage, size in enumerate(("16k", "48k", "160k", "300k", "100m")):
        steps.append(f"mount -o remount,size={size} {disk}")
        steps.append(f"{go} $([ -e {disk}/run ] && echo --resume) > {tmp_path}/said-{stage} 2>&1; echo $?")
        steps.append(f"find {disk} -name '*.tmp' -o -name '*.lock'")
    steps.append(f"cp -r {disk}/run {saved}")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", "\n".join(steps)],
        capture_output=True, text=True, check=False, timeout=500, cwd=tiny, env=environment(tiny),
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("no file system may be mounted here")
    codes = done.stdout.split()
    assert codes[-1] == "0", done
    assert len(codes) == 5, "something half-written was left"
    assert codes.count("2") >= 3, done
    for stage, code in enumerate(codes):
        said = (tmp_path / f"said-{stage}").read_text(encoding="utf-8")
        assert "Traceback" not in said
        if code == "2":
            assert "No space left on device" in said.splitlines()[-1], said
    assert str(RunDirectory(saved).summary().to_pylist()) == str(undisturbed.summary().to_pylist())


def test_a_plan_that_the_cluster_cannot_hold_leaves_nothing(tiny, tmp_path):
    process = drive(tiny, "--output", str(tmp_path / "run"), "--set", "execution.gpus_per_replica=64")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "gpus_per_replica" in said.splitlines()[-1]
    assert not (tmp_path / "run").exists()
