"""Every command and every Python snippet of the documents is run, and what they say it prints is compared.

Those that cannot run on any machine are in `NOT_HERE`, with the reason.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from .sweeping import ROOT, own_temporary

DOCUMENTS = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "sweeps" / "README.md", *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "raydual" / "embedded").glob("*.md")),
]  # fmt: skip
NOT_HERE = {
    r"pip |npm |pre-commit |python -m venv": "installs: .ci/run installs by the README's own command",
    r"pytest|ruff|mypy": "the tests, among them this one",
    r"^(ray|aws|kubectl|gcloud|sbatch|ssh|docker|helm|conda|eksctl|gsutil|scp|rsync|git|export|srun) ": "a cluster",
    r"cluster\.yaml|docs/clusters/local\.yaml|--address (?!local)": "a cluster",
    r"^(sudo|echo|mkdir|sleep|chmod|curl|openssl|az|cp|grafana-server) |^group=": "a cluster's machines",
    r"sweeps/(sst2|sst5|dai)\.yaml|Qwen/|s3://|gs://|runs/4b": "the hub, a large model or a bucket",
    r"smollm2|models/|tokenizer_check|--data DIR|llm-": "weights or data that do not come along",
    r"analysis/": "benchmarks, which take minutes: test_benchmark.py runs them",
    r"sweeps/quickstart\.yaml --set 'demonstrations": "a sweep with axes, which takes minutes: test_axes.py runs one",
}
"""Patterns of command lines that are not run, and why."""
TINY = {
    "seeds": "4", "search.seeds": "{keep: 3, slices: [20]}", "split": "{selection: 20, measured: 20}",
    "search.finetune": "{learning_rate: [1.0, 3.0], seeds: 1}", "controls": "{random_step: true}",
    "measures.resamples": "200", "demonstrations": "8",
}  # fmt: skip
"""What makes a run of the quickstart small."""


@dataclass(frozen=True)
class Command:
    """A command line of a document, and the output that the document shows after it, if it does."""

    document: str
    line: str
    shown: str | None = None


def blocks(text: str, kind: str) -> list[tuple[str, str | None]]:
    """The fenced blocks of a kind, each with the block of `text` that follows at once, if there is one."""
    pattern = rf"^```{kind}\n(.*?)^```(?:\n\n?```text\n(.*?)^```)?"
    return [(code, shown or None) for code, shown in re.findall(pattern, text, re.DOTALL | re.MULTILINE)]


def commands_of(path: Path) -> list[Command]:
    """Every command of a document, one for each line; a line that ends in a backslash goes on."""
    found = []
    for code, shown in blocks(path.read_text(encoding="utf-8"), "bash"):
        lines = [line for line in code.replace("\\\n", " ").splitlines() if line.strip() and line[0] not in "# \t"]
        for number, line in enumerate(lines, start=1):
            bare = re.split(r"\s+# ", line)[0].strip()
            found.append(Command(str(path.relative_to(ROOT)), bare, shown if number == len(lines) else None))
    return found


def reason_against(line: str) -> str | None:
    """Why a command is not run here."""
    return next((reason for pattern, reason in NOT_HERE.items() if re.search(pattern, line)), None)


EVERY = [command for path in DOCUMENTS for command in commands_of(path)]
HERE = [command for command in EVERY if not reason_against(command.line)]
SNIPPETS = {
    str(path.relative_to(ROOT)): "\n".join(code for code, _ in found)
    for path in DOCUMENTS
    if (found := blocks(path.read_text(encoding="utf-8"), "python"))
}
"""The Python of each document, from top to bottom."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with the sweeps and a run of the quickstart in small, in which commands are run; its environment."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(ROOT / "sweeps", folder / "sweeps")
    script = folder / "bin" / "raydual"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nimport sys\nfrom raydual.commands import main\nsys.exit(main())\n")
    script.chmod(0o755)
    (folder / "token").write_text(secrets.token_hex(32))
    with own_temporary() as temporary:
        environment = {
            **os.environ, **temporary, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
            "PATH": f"{script.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "raydual.sweep", "sweeps/quickstart.yaml", "--address", "local",
             *(part for key, value in TINY.items() for part in ("--set", f"{key}={value}"))],
            cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "constructor" not in done.stderr + done.stdout, "Ray's line about an actor's constructor"
        # Documents name runs of other sweeps too.
        (folder / "runs" / "sst2").symlink_to("quickstart")
        yield folder, environment


@pytest.mark.slow
@pytest.mark.parametrize("command", HERE, ids=lambda command: f"{command.document}: {command.line}")
def test_a_command_of_the_documents_runs_and_prints_what_they_say(command, desk):
    folder, environment = desk
    if " | jq " in command.line and not shutil.which("jq"):
        pytest.skip("there is no jq")
    for file in re.findall(r"raydual init (\S+)", command.line):
        (folder / file).unlink(missing_ok=True)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command.line], cwd=folder, env=environment, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if command.shown is not None:
        assert differences(command.shown, done.stdout) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("document", SNIPPETS)
def test_the_python_of_a_document_runs_from_top_to_bottom(document, desk):
    folder, environment = desk
    code = f"import raydual\n{SNIPPETS[document]}"
    done = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", "-c", code], cwd=folder, env=environment, capture_output=True,
        text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


NUMBER = r"-?\d+(?:\.\d+)?"


def differences(shown: str, printed: str) -> list[str]:
    """The lines of `shown` that are not in `printed`: words alike, numbers within a unit of their last digit.

    A line `…` stands for any lines.
    """
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    wanted = [" ".join(line.split()) for line in shown.splitlines() if line.strip() not in ("", "…")]
    return [line for line in wanted if not any(_alike(line, found) for found in lines)]


def _alike(shown: str, printed: str) -> bool:
    if re.sub(NUMBER, "#", shown) != re.sub(NUMBER, "#", printed):
        return False
    for a, b in zip(re.findall(NUMBER, shown), re.findall(NUMBER, printed), strict=True):
        unit = 10.0 ** -len(a.partition(".")[2])
        if abs(float(a) - float(b)) > (unit if "." in a else 0) * 1.001:
            return False
    return True


def test_the_comparison_with_what_is_printed_can_fail():
    printed = "model x\nλ  0.7708   3\n"
    assert differences("λ 0.7709 3\n…\n", printed) == []
    assert differences("λ 0.7728 3", printed) == ["λ 0.7728 3"]
    assert differences("λ 0.7708 4", printed) == ["λ 0.7708 4"]
    assert differences("mu 0.7708 3", printed)


def test_most_commands_run_and_every_reason_is_needed():
    assert len(HERE) >= 10
    for pattern in NOT_HERE:
        assert any(re.search(pattern, command.line) for command in EVERY), f"no document needs {pattern}"
