"""The way to the Hugging Face hub, walked with real processes: from an empty cache, offline, and when it fails.

The hub is one of this machine, of the endpoints that the real one's clients ask for.
"""

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .hub_repositories import MODEL, repositories
from .loopback_hub import TOKEN, Repository, running, silent
from .nodes import Nodes, own_ray
from .sweeping import ROOT, own_temporary, tracebacks

SIZES = {
    "demonstrations": 3, "split.selection": 8, "split.measured": 9, "measures.resamples": 200, "seeds": [1, 2, 3],
    "search.seeds": {"keep": 2, "slices": [4, 8]}, "search.finetune": {"learning_rate": [0.03, 0.3], "seeds": 2},
}  # fmt: skip
PLAN = "import sys; from raydual.commands import main; sys.exit(main(['plan', *sys.argv[1:]]))"
PREPARE = """
import json, sys
from raydual.errors import UserError
from raydual.settings.reading import validate_config
from raydual.study import prepare_study
base = {"name": "t", "task": "sst2", "seeds": 2, "demonstrations": 3}
for case in json.load(sys.stdin):
    try:
        prepare_study(validate_config({**base, **case}, "t")).source.weights_directory()
        print("fine")
    except UserError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """The repositories; tests change copies."""
    return repositories(tmp_path_factory.mktemp("repositories"))


@pytest.fixture
def offered(original):
    """Repositories that a test may change."""
    return copy.deepcopy(original)


class User:
    """Someone with a cache of their own, who asks the hub at `endpoint`."""

    def __init__(self, home: Path, endpoint: str, **variables: str) -> None:
        self.home, self.endpoint, self.variables = home, endpoint, variables
        home.mkdir(parents=True, exist_ok=True)
        token = home / "ray"
        if not token.exists():
            token.write_text("0" * 64)

    def environment(self) -> dict[str, str]:
        """The environment of their commands."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        own = {"HF_HOME": str(self.home / "huggingface"), "HF_ENDPOINT": self.endpoint, "PYTHONPATH": str(ROOT)}
        return {**kept, **own, "RAY_AUTH_TOKEN_PATH": str(self.home / "ray"), "OMP_NUM_THREADS": "1", **self.variables}

    def run(self, *arguments: str, say: str | None = None, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        """Run Python."""
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.home, env=self.environment(), input=say, text=True,
            capture_output=True, timeout=timeout, check=False,
        )  # fmt: skip

    def sweep(self, name: str, output: str, *changes: str, address: str = "local") -> subprocess.CompletedProcess[str]:
        """Run a sweep that comes with raydual."""
        sizes = [f"{key}={json.dumps(value)}" for key, value in SIZES.items()]
        own = [part for change in (*sizes, *changes) for part in ("--set", change)]
        where = ["--address", address, "--output", str(self.home / output)]
        return self.run("-m", "raydual.sweep", str(ROOT / "sweeps" / f"{name}.yaml"), *where, *own)

    def plan(self) -> subprocess.CompletedProcess[str]:
        """Plan `sst2.yaml`, which needs its data, tokenizer and config."""
        return self.run("-c", PLAN, str(ROOT / "sweeps" / "sst2.yaml"), "--set", "split.selection=8", "--set",
                        "search.seeds.slices=null", "--set", "demonstrations=3")  # fmt: skip


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The line with which a command ended on a mistake."""
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_from_an_empty_cache_and_then_without_the_hub(offered, tmp_path):
    with running(offered) as hub:
        user = User(tmp_path / "user", hub.endpoint)
        first = user.plan()
        assert (first.returncode, first.stderr) == (0, "")
        assert not [path for path in hub.downloads() if path.endswith("model.safetensors")]
    user.variables["HF_HUB_OFFLINE"] = "1"
    offline = user.plan()
    assert (offline.stdout, offline.stderr) == (first.stdout, "")
    del user.variables["HF_HUB_OFFLINE"]
    gone = user.plan()
    assert gone.stdout == first.stdout
    notes = gone.stderr.splitlines()
    assert len(notes) == 2, gone.stderr
    assert all(note.startswith("note: the Hugging Face hub does not answer (") for note in notes)
    assert notes[0].endswith("; from the cache: the splits train and validation of stanfordnlp/sst2")
    assert notes[1].endswith(f"; from the cache: config.json of {MODEL}")


@pytest.mark.slow
def test_a_hub_that_never_answers_is_not_waited_for(offered, tmp_path):
    with running(offered) as hub:
        user = User(tmp_path / "user", hub.endpoint)
        first = user.plan()
    with silent() as endpoint:
        user.endpoint, started = endpoint, time.monotonic()
        done = user.plan()
        assert done.stdout == first.stdout
        assert time.monotonic() - started < 20  # seconds of Python's start on a busy machine among them
        stranger = User(tmp_path / "stranger", endpoint)
        line = one_line(stranger.plan())
    assert line.startswith("data: 'stanfordnlp/sst2': the cache does not have the splits train and validation, and the")
    assert f"the Hugging Face hub at {endpoint} does not answer (" in line
    assert "connect to the hub, or set `data` to a local CSV" in line


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_unwell_is_one_line_without_the_clients_own(status, offered, tmp_path):
    offered["datasets/stanfordnlp/sst2"].unwell = status
    with running(offered) as hub:
        line = one_line(User(tmp_path / "user", hub.endpoint).plan())
        assert len(hub.asked) > 3, "the client did not try again"
    assert line.startswith("data: 'stanfordnlp/sst2' cannot be loaded from the Hugging Face hub (")
    assert f"status {status}" in line
    assert "/tmp" not in line


CASES = {
    "gated": ({"model": "gated/a"}, ["model: 'gated/a' is gated", "ask for access at http", "`hf auth login`"]),
    "refused": ({"model": "gated/b"}, ["model: 'gated/b' is gated", "HF_TOKEN"]),
    "unknown": ({"model": "nobody/nothing"}, ["model: 'nobody/nothing': ", "check the name", "`hf auth login`"]),
    "a revision": ({"revision": "v9"}, [f"model: '{MODEL}' on the Hugging Face hub has no revision 'v9'"]),
    "no tokenizer": ({"model": "odd/slow"}, ["model: 'odd/slow' on the Hugging Face hub has no tokenizer.json; save"]),
    "no config": ({"model": "odd/empty"}, ["model: 'odd/empty' on the Hugging Face hub has no config.json"]),
    "no weights": ({"model": "odd/pickled"}, ["'odd/pickled' on the Hugging Face hub has no safetensors weights"]),
    "a missing part": ({"model": "odd/part"}, ["model: 'odd/part' on the Hugging Face hub has no b.safetensors"]),
    "other weights": ({"model": "odd/other"}, ["has the shape", "config and weights are of different models"]),
    "gated data": ({"task": "mr"}, ["data: 'cornell-movie-review-data/rotten_tomatoes' is gated", "datasets/cornell"]),
    "no data": ({"task": {"name": "cb", "hub": {"id": "aps/other"}}}, ["data: 'aps/other': the", "check the name"]),
    "no data files": ({"task": "sst5"}, ["data: 'SetFit/sst5' cannot be loaded from the Hugging Face hub ("]),
    "no split": (
        {"task": {"name": "subj", "hub": {"id": "SetFit/subj", "validation": "dev"}}}, ["data: 'SetFit/subj'", "dev"]
    ),
    "another revision": (
        {"task": {"name": "sst2", "hub": {"id": "stanfordnlp/sst2", "revision": "v9"}}},
        ["data: 'stanfordnlp/sst2' on the Hugging Face hub has no revision 'v9'"],
    ),
    "fine": ({}, None),
}  # fmt: skip


@pytest.fixture(scope="module")
def told(original, tmp_path_factory):
    """What a user of a hub that refuses much is told in each case."""
    offered = copy.deepcopy(original)
    files = offered[MODEL].files
    without = {kind: {path: data for path, data in files.items() if not path.startswith(kind)} for kind in
               ("tokenizer.json", "config.json", "model")}  # fmt: skip
    index = json.dumps({"weight_map": {"lm_head.weight": "a.safetensors", "other": "b.safetensors"}}).encode()
    weights = files["model.safetensors"]
    offered |= {
        "gated/a": Repository(files, gated=True),
        "gated/b": Repository(files, gated=True, refused=403),
        "odd/slow": Repository(without["tokenizer.json"]),
        "odd/empty": Repository(without["config.json"]),
        "odd/pickled": Repository({**without["model"], "pytorch_model.bin": b"\x80"}),
        "odd/part": Repository({**without["model"], "model.safetensors.index.json": index, "a.safetensors": weights}),
        "odd/other": Repository({**files, "config.json": files["config.json"].replace(b'size": 29', b'size": 31')}),
    }
    offered["datasets/cornell-movie-review-data/rotten_tomatoes"].gated = True
    offered["datasets/SetFit/sst5"].files = {"README.md": b"# nothing\n"}
    cases = [{"model": MODEL, **changes} for changes, _ in CASES.values()]
    with running(offered) as hub:
        done = User(tmp_path_factory.mktemp("told"), hub.endpoint).run("-c", PREPARE, say=json.dumps(cases))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return dict(zip(CASES, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_what_the_hub_refuses_is_one_line_that_names_the_way_out(case, told):
    parts = CASES[case][1]
    if parts is None:
        assert told[case] == "fine"
        return
    message = json.loads(told[case])
    assert "\n" not in message
    assert len(message) < 600
    for part in parts:
        assert part in message


# Whole sweeps

ray = pytest.mark.filterwarnings(
    # Ray's own cluster for tests leaves pipes and sockets to the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)  # fmt: skip


@pytest.fixture
def temporary():
    """Folders for temporary files in which nothing may be left."""
    with own_temporary() as environment:
        yield environment


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"), [("sst2", ()), ("dai", ("split={}", "search.seeds={keep: 1, slices: null}"))]
)
def test_a_sweep_that_comes_with_raydual_from_an_empty_cache_then_offline(name, changes, offered, tmp_path, temporary):
    with running(offered) as hub:
        user = User(tmp_path / "user", hub.endpoint, **temporary)
        online = user.sweep(name, "online", *changes)
        assert online.returncode == 0, online.stdout + online.stderr
        assert online.stderr == ""
        loaded = [path for path in hub.downloads() if path == f"/store/{MODEL}/model.safetensors"]
        assert len(loaded) == 1
        assert None in hub.tokens
    user.variables["HF_HUB_OFFLINE"] = "1"
    offline = user.sweep(name, "offline", *changes)
    assert offline.returncode == 0, offline.stdout + offline.stderr
    assert offline.stderr == ""
    cells = sorted(
        path.parent.relative_to(user.home / "online") for path in (user.home / "online").rglob("summary.json")
    )
    assert len(cells) == {"sst2": 1, "dai": 6}[name]
    for cell in cells:
        assert summary(user.home / "offline" / cell) == summary(user.home / "online" / cell)
    commits = {json.loads(path.read_text())["model_commit"] for path in (user.home / "online").rglob("manifest.json")}
    assert commits == {offered[MODEL].commit}


@pytest.mark.slow
def test_a_download_that_is_cut_off_goes_on_or_ends_in_one_line(offered, tmp_path, temporary):
    weights = offered[MODEL]
    with running(offered) as hub:
        user = User(tmp_path / "user", hub.endpoint, **temporary)
        weights.cut["model.safetensors"] = 1000
        done = user.sweep("sst2", "cut")
        assert done.returncode == 2, done.stdout + done.stderr
        assert not tracebacks(done.stdout + done.stderr)
        (line,) = [line for line in done.stderr.splitlines() if line]
        assert line.startswith(f"error: model: '{MODEL}' cannot be loaded from the Hugging Face hub (")
        weights.cut["model.safetensors"] = 1
        again = user.sweep("sst2", "cut", "controls={}")
        assert again.returncode == 0, again.stdout + again.stderr
        assert again.stderr == ""


@ray
@pytest.mark.slow
def test_each_node_loads_from_its_own_cache(offered, tmp_path):
    offered[MODEL].gated = True
    with running(offered) as hub, own_ray() as variables:
        environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "node"), "HF_TOKEN": TOKEN}
        os.environ.update(HF_ENDPOINT=hub.endpoint)
        cluster = Nodes([(0, 0)])
        try:
            node = cluster.add(1, 0, env_vars=environment)
            user = User(tmp_path / "user", hub.endpoint, HF_TOKEN=TOKEN, **variables)
            done = user.sweep("sst2", "run", "controls={}", address=cluster.address)
            assert done.returncode == 0, done.stdout + done.stderr
            kept = {who: list(home.rglob("model.safetensors")) for who, home in
                    (("driver", user.home / "huggingface"), ("node", tmp_path / "node"))}  # fmt: skip
            assert not kept["driver"]
            assert len(kept["node"]) == 1
            cluster.kill(node)
            del environment["HF_TOKEN"]
            shutil.rmtree(tmp_path / "node")
            cluster.add(1, 0, env_vars=environment)
            refused = user.sweep("sst2", "refused", "controls={}", address=cluster.address)
        finally:
            os.environ.pop("HF_ENDPOINT")
            cluster.shutdown()
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert not tracebacks(refused.stdout + refused.stderr)
    assert refused.stderr.splitlines()[-1].startswith(f"error: model: '{MODEL}' is gated on the Hugging Face hub")
    assert "on every machine that loads it" in refused.stderr
