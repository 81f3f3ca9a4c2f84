"""More seeds or controls for a run: what may be added, and what has to change for it. Nothing measured is lost."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raydual.errors import UserError
from raydual.run_directory.directory import ADDITIONS, CONFIG, MANIFEST, RunDirectory, json_bytes
from raydual.run_directory.measurements import MeasurementFile, Unit
from raydual.settings.controls import controls_of, next_seed, report_order
from raydual.settings.reading import dump_config
from raydual.settings.schema import SweepConfig

_SHOWN = 3
_SUFFIX = ".replaced"
_PLAN = ("seeds", "search.seeds.keep", "controls")


def differences(stored: SweepConfig, config: SweepConfig) -> list[str]:
    """Every setting, but those of the plan and the execution, that is another one now, in words."""
    then, now = (_flat(one.model_dump(mode="json", exclude={"execution", "name"})) for one in (stored, config))
    return [
        f"{key} changed from {_short(then.get(key))} to {_short(now.get(key))}"
        for key in dict.fromkeys([*then, *now])
        if then.get(key) != now.get(key) and not (_is_plan(key) or key == "measures.own.file")
    ]


def check_extension(run: RunDirectory, stored: SweepConfig, config: SweepConfig) -> None:
    """Check that everything that has been measured, and what the search has chosen, is still asked for.

    Raises
    ------
    UserError
        What is not.
    """
    if stored.fingerprint() == config.fingerprint():
        return
    _check_search(run, stored, config)
    units = {unit for file in run.rows.files() if not file.damage for unit in file.units}
    seeds, controls = set(config.seeds), {control.name for control in controls_of(config.controls)}
    if gone := sorted({seed for seed, _ in units} - seeds):
        raise UserError(
            f"{run}: cannot resume with fewer seeds, {_listed(gone)} {_have(gone)} been measured, but `seeds` does not "
            "name them; name them too, or use another --output"
        )
    if lost := sorted({control for _, control in units} - controls, key=report_order):
        raise UserError(
            f"{run}: cannot resume with fewer controls, {_listed(lost)} {_have(lost)} been measured; switch all "
            "of them on, or use another --output"
        )


def extend(run: RunDirectory, stored: SweepConfig, config: SweepConfig, say: Callable[[str], None]) -> None:
    """Make a run that of `config`, which differs in its plan alone; only for who holds the run's lock.

    Units that fine-tune on the next seed are taken out where that is now another one, so that they are measured again.
    """
    before, after = chosen_seeds(run, stored), chosen_seeds(run, config)
    replaced = _replace(run, stored, before, after, say) if before and after else []
    changed = {key: [_short(old), _short(new)] for key, old, new in _plan_changes(stored, config)}
    entry = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "before": stored.fingerprint(),
        "changed": changed,
        "measured_again": [list(unit) for unit in replaced],
    }
    run.storage.write(ADDITIONS, json_bytes([*run.additions(), entry]))
    # Without a manifest the run counts as unfinished, until it writes another.
    run.storage.remove(MANIFEST)
    run.storage.write(CONFIG, dump_config(config).encode())
    say(f"{run}: goes on with {'; '.join(f'{key} {new} (was {old})' for key, (old, new) in changed.items())}")


def keep_chosen(run: RunDirectory, config: SweepConfig, say: Callable[[str], None]) -> None:
    """Mark as kept what a finished search over seeds keeps of them now that the sweep asks for more."""
    table = run.seed_search() if config.search.seeds else None
    chosen = chosen_seeds(run, config)
    if table is None or chosen is None:
        return
    more = sorted(set(chosen) - set(_kept(table)))
    if more:
        rows = [{**row, "kept": row["seed"] in chosen} for row in table.to_pylist()]
        run.write_seed_search(pa.Table.from_pylist(rows, table.schema))
        say(f"search: {_listed(more)} of the seeds that it has tried {'is' if len(more) == 1 else 'are'} kept too")


def chosen_seeds(run: RunDirectory, config: SweepConfig) -> list[int] | None:
    """The seeds that are measured, sorted; None: a search has not chosen them yet.

    Where a search kept fewer than the sweep asks for, the best of those come to them that it followed to its end.
    """
    if config.search.seeds is None:
        return sorted(config.seeds)
    table = run.seed_search()
    if table is None:
        return None
    kept = _kept(table)
    return sorted([*kept, *_next_best(table)[: max(0, config.search.seeds.keep - len(kept))]])


def _check_search(run: RunDirectory, stored: SweepConfig, config: SweepConfig) -> None:
    """A search over seeds that has chosen keeps its choice: more of what it tried, nothing else."""
    try:
        table = run.seed_search()
    except UserError:
        table = None  # told elsewhere
    if table is None or config.search.seeds is None or stored.search.seeds is None:
        return
    if set(stored.seeds) != set(config.seeds):
        raise UserError(
            f"{run}: cannot resume with other seeds, the search has chosen among {len(stored.seeds)}, and would choose "
            "others among more; raise search.seeds.keep, or use another --output"
        )
    kept, keep = len(_kept(table)), config.search.seeds.keep
    most = kept + len(_next_best(table))
    if keep < stored.search.seeds.keep:
        raise UserError(
            f"{run}: cannot resume with search.seeds.keep={keep}, the search has kept {kept}; use "
            f"{stored.search.seeds.keep} or more, or another --output"
        )
    if keep > max(most, stored.search.seeds.keep):
        raise UserError(
            f"{run}: cannot resume with search.seeds.keep={keep}, the search has followed no more than {most} seeds to "
            f"its last slice, the others were stopped before; use {most} at most, or another --output"
        )


def _kept(table: pa.Table) -> list[int]:
    return [row["seed"] for row in table.to_pylist() if row["kept"]]


def _next_best(table: pa.Table) -> list[int]:
    """The seeds that were followed to the last slice and not kept, the best first, as the search ranks them."""
    rows = [
        row
        for row in table.to_pylist()
        if not row["kept"] and row["stopped_at"] is None and not math.isnan(row["accuracy"])
    ]
    return [row["seed"] for row in sorted(rows, key=lambda row: (-row["examples"], -row["accuracy"], row["seed"]))]


def _replace(
    run: RunDirectory, stored: SweepConfig, before: list[int], after: list[int], say: Callable[[str], None]
) -> list[Unit]:
    """Take out the units whose other seed is another one among more seeds; their former rows are set aside."""
    others = {control.name for control in controls_of(stored.controls) if control.tuned_on == "other"}
    replaced = []
    for file in run.rows.sound():
        gone = [
            (seed, control)
            for seed, control in file.units
            if control in others and next_seed(seed, before) != next_seed(seed, after)
        ]
        if gone:
            _take_out(run, file, gone)
            replaced += gone
    for seed, control in replaced:
        say(
            f"{control}: seed {seed} was fine-tuned on seed {next_seed(seed, before)}, of these seeds its next is "
            f"{next_seed(seed, after)}: measured again"
        )
    return replaced


def _take_out(run: RunDirectory, file: MeasurementFile, units: list[Unit]) -> None:
    """Write a file without some units; what it was has another name. Cut off between, all are measured again."""
    rows = _without(run.rows.read(file.name), units)
    examples = _without(run.rows.examples.read(file.examples), units) if file.examples else None
    run.rows.set_aside(file, _SUFFIX)
    if len(rows):
        run.rows.add(rows, file.settings, file.finetune, examples)


def _without(table: pa.Table, units: list[Unit]) -> pa.Table:
    mask = pa.array([False] * len(table))
    for seed, control in units:
        mask = pc.or_(mask, pc.and_(pc.equal(table["seed"], seed), pc.equal(table["control"], control)))
    return table.filter(pc.invert(mask))


def _plan_changes(stored: SweepConfig, config: SweepConfig) -> Iterator[tuple[str, Any, Any]]:
    then, now = (_flat(one.model_dump(mode="json")) for one in (stored, config))
    for key in now:
        if _is_plan(key) and then.get(key) != now[key]:
            yield key, then.get(key), now[key]


def _is_plan(key: str) -> bool:
    return key != "controls.abstract_words" and any(key == one or key.startswith(f"{one}.") for one in _PLAN)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _short(value: Any) -> str:
    """A value in a few words; of many seeds their number."""
    if isinstance(value, list) and len(value) > 2 * _SHOWN:
        return f"{len(value)} of them, {value[0]} to {value[-1]}"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _listed(items: Iterable[object]) -> str:
    names = [str(item) for item in items]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _have(items: list[Any]) -> str:
    return "has" if len(items) == 1 else "have"
