"""The program as a whole: help, versions, completion, mistakes, signals, and the commands that documents name."""

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raydual.commands import main
from raydual.commands.program import commands
from raydual.process.stopping import stop
from raydual.settings.controls import control_names
from raydual.sweep import main as sweep_alone

from .sweeping import tiny_settings, wait_for
from .tiny import BASE

ROOT = Path(__file__).parent.parent
COMMANDS = sorted(commands().commands)
WITH_SETTINGS = [name for name in COMMANDS if name not in ("check", "init", "report", "schema", "show", "tasks")]
NEEDED = {"record": ["--out", "nowhere"], "report": ["nowhere"], "show": ["nowhere"]}
"""What a command cannot do without."""


@pytest.fixture
def told(capsys):
    """Run the program and give (exit code, output, errors)."""

    def run(*arguments, command=main):
        code = command(list(map(str, arguments)))
        out, errors = capsys.readouterr()
        return code, out, errors

    return run


def test_help_and_mistakes_of_every_command_are_told_at_once_and_load_neither_torch_nor_ray(tmp_path):
    told = "raydual.commands.main({arguments!r})"
    lines = ["import sys, time, raydual.commands", "codes = []"]
    for name in COMMANDS:
        asked = [[name, "--help"], [name, "--nonsense", *NEEDED.get(name, [])]]
        if name in WITH_SETTINGS:
            asked.append([name, "--set", "demonstratons=3", *NEEDED.get(name, [])])
        for arguments in asked:
            lines += ["started = time.process_time()", f"codes.append({told.format(arguments=arguments)})"]
            lines += [f"assert time.process_time() - started < 1, {arguments!r}"]
    lines += ["assert not {'torch', 'ray', 'transformers', 'rich'} & set(sys.modules)", "print(codes)"]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    mistakes = [0, 2, 2]
    assert json.loads(done.stdout.splitlines()[-1]) == [
        code for name in COMMANDS for code in (mistakes if name in WITH_SETTINGS else mistakes[:2])
    ]
    errors = done.stderr.splitlines()
    assert len(errors) == len(COMMANDS) + len(WITH_SETTINGS)
    assert all(line.startswith("error: ") for line in errors)
    assert sum("did you mean 'demonstrations'" in line for line in errors) == len(WITH_SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "start", [["-m", "raydual"], ["-m", "raydual.sweep"], ["-m", "raydual.report"]], ids=lambda start: start[1]
)
def test_it_can_be_started_as_a_module(start):
    done = subprocess.run([sys.executable, *start, "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: python {' '.join(start)} [OPTIONS]")


def test_without_a_command_help_is_told_as_a_mistake(told):
    code, out, errors = told()
    assert (code, out) == (2, "")
    assert all(name in errors for name in COMMANDS)


def test_no_commands_help_is_cut_short(told):
    _, out, _ = told("--help")
    assert "..." not in out.partition("Commands:")[2]


def test_the_version_is_told(told):
    code, out, errors = told("--version")
    assert (code, errors) == (0, "")
    assert re.fullmatch(r"raydual \d+\.\d+\.\d+\n", out)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("simaouu", "No such command 'simaouu'. Did you mean 'simaou'"),
        ("simaou --sed 3", "No such option: --sed (Possible options: --seed"),
        (
            "dual --precision flaot32",
            "'flaot32' is not one of 'float32', 'float64'; did you mean 'float32'?; see raydual dual --help",
        ),
        ("record --out x --format day", "'day' is not one of 'dai', 'parquet'"),
        ("simaou --control untraned", "did you mean 'untrained'?"),
        ("simaou --seed three", "Invalid value for '--seed'"),
        ("record", "Missing option '--out'; see raydual record --help"),
        ("report", "Missing argument 'RUN_DIR'; see raydual report --help"),
        ("plan a b", "unexpected extra argument(s) (b)"),
        ("--nonsense", "No such option: --nonsense"),
        ("sweep --wait 3 --no-wait", "--wait and --no-wait: give one of them"),
        ("sweep --wait 0", "--wait 0: minutes are more than 0"),
        ("sweep --wait nan", "--wait nan: minutes are more than 0"),
        ("sweep --wait soon", "Invalid value for '--wait'"),
    ],
)
def test_a_mistake_in_what_is_typed_is_one_line_with_what_was_meant(typed, said, told):
    code, out, errors = told(*typed.split())
    assert (code, out) == (2, "")
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("raydual simao", {"simaou"}),
        ("raydual sim", {"simaou", "simam"}),
        ("raydual simaou --cont", {"--control"}),
        ("raydual init --task sst", {"sst2", "sst5"}),
        ("raydual simaou --control unt", {"untrained"}),
        ("raydual simaou --control ", set(control_names())),
        ("raydual dual --precision ", {"float32", "float64"}),
        ("raydual sweep --set demonst", {"demonstrations="}),
        ("raydual plan --set finetune.ep", {"finetune.epochs="}),
    ],
)
def test_a_shell_completes_commands_options_and_choices(typed, offered):
    words = typed.split(" ")
    done = subprocess.run(
        [sys.executable, "-c", "import raydual.commands; raydual.commands.main()"],
        env={
            **os.environ,
            "_RAYDUAL_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == offered


# Signals


@pytest.mark.parametrize(
    ("command", "how"),
    [(sweep_alone, "python -m raydual.sweep"), (lambda typed: main(["sweep", *typed]), "raydual sweep")],
    ids=["launcher", "program"],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_sweep_that_is_stopped_says_how_to_go_on(command, how, number, told, tmp_path, monkeypatch):
    def stopped(config, run, **_):
        run.start(config)
        stop(number)

    monkeypatch.setattr("raydual.pipeline.execute", stopped)
    (tmp_path / "a b.yaml").write_text(BASE)
    typed = [str(tmp_path / "a b.yaml"), "--output", str(tmp_path / "run"), "--resume", "--set", "seeds=3"]
    code, _, errors = told(*typed, command=command)
    assert code == 128 + number
    typed.remove("--resume")
    assert errors == f"stopped by {number.name}; go on with: {how} {shlex.join([*typed, '--resume'])}\n"


def test_a_sweep_that_is_stopped_before_it_stored_anything_says_so(told, tmp_path, monkeypatch):
    monkeypatch.setattr("raydual.pipeline.execute", lambda *_, **__: stop(signal.SIGTERM))
    (tmp_path / "s.yaml").write_text(BASE)
    code, _, errors = told(tmp_path / "s.yaml", "--output", tmp_path / "run", command=sweep_alone)
    assert (code, errors) == (143, "stopped by SIGTERM; nothing had been computed\n")


def test_a_command_on_one_seed_ends_on_a_signal_in_one_line(inputs, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_settings(inputs, search={}, seeds=100_000)))
    errors = tmp_path / "errors"
    with errors.open("w") as file:
        command = [sys.executable, "-m", "raydual", "select", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True) as process:
            wait_for(lambda: " of 100000 seeds" in errors.read_text(), process, seconds=60)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Traceback" not in errors.read_text()
    assert errors.read_text().endswith("stopped by SIGTERM\n")


# The documents


def documents():
    for pattern in ("*.md", "*.yaml", "docs/**/*", "sweeps/*", "raydual/**/*.md", "analysis/*.py", "analysis/*.ipynb"):
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file() and path.suffix in (".md", ".yaml", ".sh", ".py", ".ipynb", ""):
                yield path


def commands_in(path):
    """The words of every command of raydual that a document names: (module or `raydual`, its arguments)."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    snippets = text.splitlines()
    if path.suffix in (".md", ".ipynb"):
        fences = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        spans = re.findall(r"`((?:raydual|python -m raydual)[^`\n]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        snippets = [line for fence in fences for line in fence.splitlines()] + spans
    for snippet in snippets:
        for module, rest in re.findall(r"(python -m raydual[\w.]*|^raydual)(?: (.*))?$", snippet):
            rest = re.split(r" #|;|&&| \| ", rest)[0]
            if rest.count("'") % 2:
                rest = rest.rpartition("'")[0]
            yield module.removeprefix("python -m "), shlex.split(rest.replace("…", ""))


def problem_with(module, arguments):
    """What is wrong with a command, or nothing."""
    if module not in ("raydual", "raydual.sweep", "raydual.report"):
        found = importlib.util.find_spec(module)
        runs = found is not None and "__main__" in Path(found.origin).read_text(encoding="utf-8")
        return None if runs else f"{module} is no program"
    words = arguments if module == "raydual" else [module.removeprefix("raydual."), *arguments]
    if not words or words[0].startswith("-"):
        return None
    command = commands().commands.get(words[0])
    if command is None:
        return f"there is no command {words[0]}"
    try:
        if words[1:] and "--help" not in words:
            command.make_context(words[0], list(words[1:]))
    except Exception as error:
        return f"{' '.join(words)}: {error}"
    return None


def test_every_command_in_the_documents_is_one_that_the_program_takes():
    found = [(path, *command) for path in documents() for command in commands_in(path)]
    assert len(found) > 40
    assert {path.name for path, *_ in found} >= {"README.md", "interface.md", "cluster.md", "slurm.sh", "rayjob.yaml"}
    wrong = [f"{path.relative_to(ROOT)}: {text}" for path, *command in found if (text := problem_with(*command))]
    assert wrong == []


@pytest.mark.parametrize(
    "text", ["`raydual simaouu`", "`raydual plan --memroy 3`", "```bash\npython -m raydual.nothing x  # y\n```"]
)
def test_a_wrong_command_in_a_document_is_found(text, tmp_path):
    (tmp_path / "x.md").write_text(text)
    ((module, arguments),) = commands_in(tmp_path / "x.md")
    assert problem_with(module, arguments)


def test_the_documents_list_every_command():
    listed = re.findall(r"^\| `raydual ([\w-]+)", (ROOT / "docs" / "interface.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == COMMANDS
