"""What a person reads while a run goes on, on a clock that the tests turn, with statuses in place of a pool."""

import math
from typing import Any

import pytest

from raydual.catalogue.entries import OVERALL
from raydual.cluster.gauges import METRICS
from raydual.cluster.status import Status, Work
from raydual.cluster.watch import Watch
from raydual.measure.rows import failure_row
from raydual.plan.layout import Layout
from raydual.plan.progress import MeasureNews, StageProgress, earlier
from raydual.run_directory.directory import measurement_table

from .default_catalogue import CATALOGUE


class Clock:
    """A clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Board:
    """Stands in for `Gauges`: keeps the values, and refuses what no gauge has."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}

    def set(self, name: str, value: float, **tags: str) -> None:
        assert {"run", *tags} == set(METRICS[name])
        self.values[name, *tags.values()] = value

    def refresh(self) -> None:
        """Nothing: a board forgets nothing."""


def status(**changes: Any) -> Status:
    """A pool with two replicas that have nothing to do."""
    usual: dict[str, Any] = {
        "states": {"ready": 2}, "work": (), "devices": ("cpu", "cpu"), "tokens": 0, "memory": {}, "lost": 0,
        "retried": 0, "retried_by": {}, "most": 2, "wanted": 2, "waited": 0.0, "queued": 0,
    }  # fmt: skip
    return Status(**{**usual, **changes})


def layout(gpus: float = 0) -> Layout:
    return Layout(replicas=2, now=2, cpus=1, gpus=gpus, threads=1, neighbours=1, batch=8)


class Terminal:
    """A watch, its clock, its gauges, and the lines that it says."""

    def __init__(self, gpus: float = 0) -> None:
        self.clock, self.board, self.lines = Clock(), Board(), list[str]()
        self.watch = Watch(None, layout(gpus), 1800, self.board, self.lines.append, self.clock)  # type: ignore[arg-type]

    def stage(self, title: str = "measure", total: int = 10) -> StageProgress:
        progress = StageProgress(title, total, self.board, self.lines.append, self.clock)  # type: ignore[arg-type]
        self.watch.progress = progress
        self.lines.clear()
        return progress


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def see_for(terminal: Terminal, seconds: int, **changes: Any) -> list[int]:
    """Show the same status every second; the seconds at which a line was said."""
    said = []
    for second in range(seconds):
        before = len(terminal.lines)
        waited = {"waited": float(second)} if changes.get("states") == {"asked for": 2} else {}
        terminal.watch.see(status(**changes, **waited))
        said += [second] * (len(terminal.lines) - before)
        terminal.clock.now += 1
    return said


def test_waiting_for_nodes_is_told_once_a_minute(terminal: Terminal) -> None:
    assert see_for(terminal, 190, states={"asked for": 2}) == [5, 65, 125, 185]
    assert terminal.lines[1] == (
        "waiting for nodes: 2 replica(s) of 1 CPU are asked for, none has a place yet; 65 s so far, "
        "at most 30 min (--wait)"
    )
    terminal.lines.clear()
    see_for(terminal, 100, states={"asked for": 1, "loading": 1})
    assert terminal.lines == ["replicas: 1 asked for, 1 loading"]


def test_replicas_that_come_at_once_are_not_waited_for(terminal: Terminal) -> None:
    assert see_for(terminal, 5, states={"asked for": 2}) == []
    assert see_for(terminal, 5, states={"loading": 2}) == []


@pytest.mark.parametrize(("gpus", "device", "lines"), [(1, "cpu", 1), (0.25, "cpu", 1), (1, "cuda", 0), (0, "cpu", 0)])
def test_a_gpu_in_name_alone_is_told_once(gpus: float, device: str, lines: int) -> None:
    terminal = Terminal(gpus)
    see_for(terminal, 100, devices=(device, device))
    assert len(terminal.lines) == lines
    assert all(line.startswith("note: a replica has a GPU by name") for line in terminal.lines)


def test_each_loss_is_told_once(terminal: Terminal) -> None:
    see_for(terminal, 3)
    see_for(terminal, 90, lost=1, states={"ready": 1, "loading": 1})
    see_for(terminal, 90, lost=3, states={"busy": 2})
    assert terminal.lines == [
        "replicas: 1 lost so far, their work is done again; 1 loading, 1 ready",
        "replicas: 3 lost so far, their work is done again; 2 busy",
    ]


def test_work_in_progress_is_told_after_a_silence(terminal: Terminal) -> None:
    progress = terminal.stage()
    work = tuple(Work(f"measure: seeds {i} to {i + 7}, measurement", 1.25, 8) for i in (0, 8, 16))
    assert see_for(terminal, 40, work=work) == [15, 30]
    assert terminal.lines[0] == (
        "measure: 0/10, and 3.8 of those at work - seeds 0 to 7, measurement; seeds 8 to 15, measurement and 1 more"
    )
    progress.advance(2, "news")
    terminal.lines.clear()
    assert see_for(terminal, 20, work=work) == [15], "a line of progress breaks the silence"
    progress.advance(8, "news")
    terminal.lines.clear()
    assert see_for(terminal, 60, work=work) == [], "nothing after the stage is done"


def test_what_comes_before_the_first_seed_is_told_too(terminal: Terminal) -> None:
    terminal.stage()
    work = (Work("load: the model"), Work("measure: seed 1, measurement", 0.0, 1, "zero-shot pass 3/14"))
    assert see_for(terminal, 20, work=work) == [15]
    assert terminal.lines[0].endswith(" - the model; zero-shot pass 3/14 of seed 1, measurement")


def test_nothing_is_told_of_work_between_stages(terminal: Terminal) -> None:
    terminal.stage()
    terminal.watch.progress = None
    assert see_for(terminal, 60, work=(Work("measure: seed 1, measurement", 0.5, 1),)) == []


def test_the_time_left_is_that_of_the_rate_after_the_first(terminal: Terminal) -> None:
    progress = terminal.stage(total=10)
    terminal.clock.now += 100
    progress.advance(2, "first")
    assert ("raydual_seconds_left", "measure") not in terminal.board.values, "loading says nothing of the rate"
    terminal.clock.now += 30
    progress.advance(3, "second")
    assert terminal.board.values["raydual_seconds_left", "measure"] == pytest.approx(50)
    assert terminal.board.values["raydual_units_per_second", "measure"] == pytest.approx(5 / 130)
    terminal.clock.now += 3000
    progress.advance(1, "third")
    terminal.clock.now += 1
    progress.advance(4, "last")
    assert terminal.board.values["raydual_seconds_left", "measure"] == 0
    assert terminal.lines == [
        "measure: 2/10 - first",
        "measure: 5/10, about 50 s left - second",
        "measure: 6/10, about 50 min left - third",
        "measure: 10/10 - last",
    ]


def test_at_most_a_line_a_second_and_always_the_last(terminal: Terminal) -> None:
    progress = terminal.stage(total=40)
    for _ in range(40):
        progress.advance(1, "one more")
        terminal.clock.now += 0.1
    assert [line.split(" ")[1].rstrip(",") for line in terminal.lines] == ["1/40", "11/40", "21/40", "31/40", "40/40"]


def test_the_pool_is_on_the_gauges(terminal: Terminal) -> None:
    values = terminal.board.values
    terminal.watch.see(status(retried=2, retried_by={"": 2}))
    terminal.stage()
    terminal.clock.now += 10
    terminal.watch.see(status(states={"busy": 1, "loading": 1}, tokens=5000, memory={"0": 7, "1": 9}, lost=1))
    assert values["raydual_tokens_per_second", "measure"] == pytest.approx(500)
    shown = {tags[1]: value for tags, value in values.items() if tags[0] == "raydual_replicas"}
    assert shown == {"asked for": 0, "loading": 1, "ready": 0, "busy": 1, "lost": 1}
    terminal.watch.see(status(memory={"1": 9, "2": 4}, retried_by={"": 2, "none": 16, "random_step": 8}))
    assert [values["raydual_replica_memory_bytes", number] for number in "012"] == [0, 9, 4]
    retried = {tags[1:3]: value for tags, value in values.items() if tags[-1] == "retried"}
    assert retried == {("start", ""): 2, ("measure", "none"): 16, ("measure", "random_step"): 8}


def test_a_closed_watch_shows_no_replicas(terminal: Terminal) -> None:
    terminal.watch.start()
    terminal.watch.see(status(memory={"0": 7}))
    terminal.watch.close()
    values = terminal.board.values
    assert values["raydual_replica_memory_bytes", "0"] == 0
    assert all(values["raydual_replicas", state] == 0 for state in ("asked for", "loading", "ready", "busy"))


def row(seed: int, condition: str, value: float, metric: str = "accuracy", **changes: Any) -> dict[str, Any]:
    usual = {
        "seed": seed,
        "control": "none",
        "metric": metric,
        "condition": condition,
        "layer": OVERALL,
        "value": value,
    }
    return {**failure_row(seed, ""), "reason": None, **usual, **changes}


BATCH = [
    row(1, "icl", 0.5),
    row(2, "icl", 1.0),
    row(1, "ft", math.nan),
    row(2, "ft", 0.25),
    row(2, "ft", 0.9, layer=3),
    row(1, "icl", 0.1, control="random_step"),
    failure_row(3, "too long"),
    {**failure_row(2, "diverged"), "control": "random_step"},
]


def counts(board: Board) -> dict[tuple[str, str], float]:
    return {tags[2:]: value for tags, value in board.values.items() if tags[0] == "raydual_units"}


def test_news_count_by_control_and_average_what_is_a_number() -> None:
    board = Board()
    news = MeasureNews(board, {"none": 5, "random_step": 2})  # type: ignore[arg-type]
    assert counts(board) == {
        (control, outcome): asked if outcome == "asked" else 0
        for control, asked in {"none": 5, "random_step": 2}.items()
        for outcome in ("asked", "done", "failed", "retried")
    }
    assert news.update(measurement_table(BATCH)) == "accuracy so far: icl 0.750, ft 0.250, 2 failed"
    found = counts(board)
    assert (found["none", "done"], found["none", "failed"]) == (2, 1)
    assert (found["random_step", "done"], found["random_step", "failed"]) == (1, 1)
    assert board.values["raydual_mean", "accuracy", "icl"] == 0.75
    assert board.values["raydual_mean", "accuracy", "ft"] == 0.25
    more = measurement_table([row(4, "icl", 0.0), row(4, "ft", math.inf), row(4, "zsl", 0.6)])
    assert news.update(more) == "accuracy so far: zsl 0.600, icl 0.500, ft 0.250, 2 failed"
    assert counts(board)["none", "done"] == 3


def test_news_of_nothing_but_failures() -> None:
    news = MeasureNews(Board(), {"none": 1})  # type: ignore[arg-type]
    assert news.update(measurement_table([failure_row(3, "too long")])) == "accuracy so far: none, 1 failed"
    assert news.update(measurement_table([])) == "accuracy so far: none, 1 failed"


def test_a_run_that_goes_on_counts_what_it_has() -> None:
    columns, rows = earlier(CATALOGUE)
    before = measurement_table(BATCH).filter(rows).select(columns)
    board = Board()
    news = MeasureNews(board, {"none": 5, "random_step": 2}, before)  # type: ignore[arg-type]
    assert counts(board)["none", "done"] == 2
    assert counts(board)["none", "failed"] == 1
    assert news.update(measurement_table([row(4, "icl", 0.0)])) == "accuracy so far: icl 0.500, ft 0.250, 2 failed"
