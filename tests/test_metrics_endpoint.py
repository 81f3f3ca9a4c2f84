"""What Prometheus would read during a sweep, against what the sweep said and stored; and what listens meanwhile."""

import contextlib
import ipaddress
import json
import re
import stat
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from raydual.catalogue.entries import CATALOGUE, OVERALL
from raydual.cells import CellsDirectory
from raydual.cluster.gauges import METRICS
from raydual.settings.controls import MEASUREMENT
from raydual.study import prepare_study

from .sweeping import MEASURE, Sweeping, family, make_inputs, tiny_settings

pytestmark = [pytest.mark.slow, pytest.mark.ray]

Values = dict[tuple[tuple[str, str], ...], float]


class Observer(threading.Thread):
    """Looks at a running sweep again and again: at its metrics, its sockets and its jobs."""

    def __init__(self, process: subprocess.Popen[str], token: str) -> None:
        super().__init__()
        self.process, self.token = process, token
        self.lines: list[str] = []
        self.scrapes: list[dict[str, Values]] = []
        self.sockets: set[tuple[str, str]] = set()
        self.jobs: list[dict[str, Any]] = []
        self.progress: list[tuple[int, int]] = []

    def run(self) -> None:
        dashboard = threading.Thread(target=self.watch_dashboard)
        dashboard.start()
        self.watch_endpoints()
        dashboard.join()

    def watch_endpoints(self) -> None:
        while self.process.poll() is None:
            self.sockets |= listening(self.process.pid)
            for target in self.targets():
                with contextlib.suppress(OSError):
                    found = scrape(target)
                    if found:
                        self.scrapes.append(found)
            time.sleep(0.3)

    def targets(self) -> list[str]:
        """As Ray tells Prometheus."""
        folders = Path(tempfile.gettempdir()).glob(f"raydual-ray-{self.process.pid}-*")
        files = [file for folder in folders for file in folder.glob("prom_metrics_service_discovery.json")]
        with contextlib.suppress(OSError, ValueError):
            return [target for file in files for entry in json.loads(file.read_text()) for target in entry["targets"]]
        return []

    def watch_dashboard(self) -> None:
        """Beside the scrapes: it may take seconds to answer."""
        while self.process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                self.look_at_dashboard()
            time.sleep(1)

    def look_at_dashboard(self) -> None:
        said = next((found[1] for line in self.lines if (found := re.search(r"dashboard (http\S+)", line))), None)
        if said is None:
            return
        self.jobs = self.ask(f"{said}/api/jobs/") or self.jobs
        for job in self.jobs:
            datasets = self.ask(f"{said}/api/data/datasets/{job['job_id']}")["datasets"]
            running = [found for found in datasets if found["state"] == "RUNNING" and found["total"]]
            self.progress += [(found["progress"], found["total"]) for found in running]

    def ask(self, url: str) -> Any:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def listening(pid: int) -> set[tuple[str, str]]:
    """(process, address) of every TCP socket on which a sweep's processes listen."""
    found = set()
    for process in family(pid):
        with contextlib.suppress(psutil.Error):
            name = " ".join(process.cmdline())[:120]
            found |= {
                (name, socket.laddr.ip)
                for socket in process.net_connections("tcp")
                if socket.status == psutil.CONN_LISTEN
            }
    return found


def scrape(target: str) -> dict[str, Values]:
    """The sweep's gauges of one endpoint: values by their own tags."""
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found: dict[str, Values] = {}
    for metric in text_string_to_metric_families(text):
        name = metric.name.removeprefix("ray_")
        for sample in metric.samples if name in METRICS else ():
            assert set(METRICS[name]) <= set(sample.labels), f"{name} has all of its tags"
            found.setdefault(name, {})[tuple((tag, sample.labels[tag]) for tag in METRICS[name])] = sample.value
    return found


def one(found: Mapping[str, Values], name: str, **tags: str) -> float:
    return found[name][tuple((tag, tags[tag]) for tag in METRICS[name])]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    settings = tiny_settings(make_inputs(folder), demonstrations=[5, 4])
    faults = [
        {"at": MEASURE, "kind": "slow", "seconds": 2},
        {"at": MEASURE, "kind": "raise", "seed": 3},
        {"at": MEASURE, "kind": "raise", "seed": 5},
        {"at": MEASURE, "kind": "raise", "seed": 9},
        {"at": MEASURE, "kind": "exit", "seed": 1, "once": str(folder / "killed")},
        {"at": MEASURE, "kind": "exit", "seed": 2, "once": str(folder / "killed")},
    ]
    environment = {"RAY_metrics_report_interval_ms": "1000"}
    return Sweeping(folder / "sweep", settings, faults=faults, environment=environment)


@pytest.fixture(scope="module")
def observed(sweep):
    with sweep.started() as process, process.stdout, process.stderr:
        token = Path(sweep.variables()["RAY_AUTH_TOKEN_PATH"])
        observer = Observer(process, token.read_text())
        observer.start()
        observer.lines += iter(process.stdout.readline, "")
        observer.join()
        assert process.wait() == 0, process.stderr.read()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    return observer


@pytest.fixture(scope="module")
def run(sweep, observed):
    """The first cell: its gauges keep their last values while the second one is at work."""
    return CellsDirectory(sweep.folder / "run").cell("5")


def test_every_gauge_is_there_with_its_tags(observed):
    assert {name for found in observed.scrapes for name in found} == set(METRICS)
    runs = {dict(tags)["run"] for found in observed.scrapes for values in found.values() for tags in values}
    assert runs == {"tiny/5", "tiny/4"}


def test_units_are_those_of_the_run(observed, run):
    last = observed.scrapes[-1]["raydual_units"]
    units = {tuple(dict(tags)[tag] for tag in ("stage", "control", "outcome")): value
             for tags, value in last.items() if ("run", "tiny/5") in tags}  # fmt: skip
    study = prepare_study(run.config())
    chosen = run.manifest()["seeds"]["chosen"]
    asked = [unit.control.name for unit in study.units(chosen)]
    failed = [control for _, control, _ in run.failures()]
    assert failed, "the faults hit"
    for control in set(asked):
        assert units["measure", control, "asked"] == asked.count(control)
        assert units["measure", control, "failed"] == failed.count(control)
        assert units["measure", control, "done"] == asked.count(control) - failed.count(control)
    retried = {key: value for key, value in units.items() if key[-1] == "retried" and value}
    assert retried
    assert sum(retried.values()) >= run.manifest()["losses"]["retried"] > 0
    end = f"measure: {len(asked)}/{len(asked)} - "
    assert any(line.startswith(end) and f"{len(failed)} failed" in line for line in observed.lines)


def test_means_are_those_of_the_last_line_and_of_the_summary(observed, run):
    shown = {key[1:]: value for key, value in means(observed.scrapes[-1], "tiny/5").items()}
    line = next(line for line in observed.lines if re.match(r"measure: (\d+)/\1 ", line))
    for condition, said in re.findall(r"(zsl|icl|ft) (\d\.\d{3})", line):
        assert f"{shown['accuracy', condition]:.3f}" == said
    stored = {
        (row["metric"], row["condition"]): row["mean"]
        for row in run.summary().to_pylist()
        if row["control"] == MEASUREMENT.name and row["layer"] == OVERALL and row["n"]
    }
    expected = {key: stored[key] for key in stored if key[0] in CATALOGUE and CATALOGUE[key[0]].headline}
    assert shown == pytest.approx(expected, rel=1e-9)


def means(found: Mapping[str, Values], run: str) -> dict[tuple[str, ...], float]:
    values = found["raydual_mean"].items()
    return {tuple(value for _, value in tags): mean for tags, mean in values if tags[0] == ("run", run)}


def test_trials_of_the_search(observed, run):
    shown = [
        {state: one(found, "raydual_trials", run="tiny/5", state=state) for state in ("running", "done", "stopped")}
        for found in observed.scrapes
        if any(("run", "tiny/5") in tags for tags in found.get("raydual_trials", ()))
    ]
    searched = run.seed_search().to_pylist()
    stopped = sum(row["reason"] is None and row["examples"] < 12 for row in searched)
    assert stopped, "the search stops some"
    trials = len(searched) + run.finetune_search().num_rows
    assert max(found["running"] for found in shown) > 0
    assert shown[-1] == {"running": 0, "done": trials - stopped, "stopped": stopped}


def test_rates_times_and_replicas(observed):
    last = observed.scrapes[-1]
    assert one(last, "raydual_seconds_left", run="tiny/5", stage="measure") == 0
    assert one(last, "raydual_units_per_second", run="tiny/5", stage="measure") > 0
    tokens = [value for found in observed.scrapes for value in found.get("raydual_tokens_per_second", {}).values()]
    assert max(tokens) > 0
    memory = [value for found in observed.scrapes for value in found.get("raydual_replica_memory_bytes", {}).values()]
    assert max(memory) > 50e6
    states = {dict(tags)["state"]: value for found in observed.scrapes
              for tags, value in found.get("raydual_replicas", {}).items() if value}  # fmt: skip
    assert {"busy", "lost"} <= set(states)


def test_nothing_listens_beyond_this_machine(observed):
    assert observed.sockets, "the sweep listens"
    beyond = {
        (name, address)
        for name, address in observed.sockets
        if not ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback
    }
    assert beyond == set()


def test_the_dashboard_names_the_job_and_follows_the_measuring(observed, sweep):
    (job,) = observed.jobs
    assert job["metadata"]["job_name"] == f"tiny, in {sweep.folder / 'run'}"
    assert (job["metadata"]["cells"], job["metadata"]["axes"]) == ("2", "demonstrations")
    assert observed.progress, "Ray Data shows the stream"
    assert min(done for done, _ in observed.progress) < max(total for _, total in observed.progress) / 2


def test_the_loss_of_a_replica_is_told_in_the_runs_own_words_alone(observed):
    assert any(line.startswith("replicas: 1 lost so far") for line in observed.lines)
    assert not [line for line in observed.lines if "(raylet" in line]
