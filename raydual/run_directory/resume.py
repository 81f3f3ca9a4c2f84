"""Whether a run directory may be gone on with, and what has to be made anew: every file is checked, none is trusted."""

from collections.abc import Callable, Iterator

from raydual.errors import UserError
from raydual.run_directory.directory import CONFIG, MANIFEST, SEARCHES, RunDirectory, check_unused, fingerprint_of
from raydual.run_directory.extension import check_extension, differences, extend, keep_chosen
from raydual.run_directory.measurements import MeasurementFile
from raydual.run_directory.tables import about_of, read_table
from raydual.settings.schema import SweepConfig


def check(run: RunDirectory, config: SweepConfig, resume: bool) -> None:
    """Check that a directory is new, or holds the same sweep and may be gone on with. Changes nothing.

    Raises
    ------
    UserError
        It exists and `resume` is False; or `resume` and it holds no run, one with other settings, or others' rows.
    """
    if not resume:
        check_unused(run.storage)
        return
    _check_same(run, config)
    _check_rows(run, config)
    _check_searches(run, config)


def verify(run: RunDirectory, note: Callable[[str], None]) -> None:
    """Check that a run's settings, rows, search and manifest belong together, as the report takes them to.

    `note` is told what cannot be verified.

    Raises
    ------
    UserError
        They do not, or a file is damaged.
    """
    config = run.config()
    _check_rows(run, config)
    files = run.rows.sound()
    _check_searches(run, config)
    run.seed_search()
    run.finetune_search()
    old = [file for file in files if file.settings is None]
    if old:
        note(
            f"{run.rows.storage}: {len(old)} of {len(files)} files were written by an older version and do not say "
            "what they belong to; that their rows fit config.yaml cannot be verified"
        )
    manifest = run.manifest()
    if manifest is None:
        return
    if manifest.get("fingerprint", config.fingerprint()) != config.fingerprint():
        raise UserError(
            f"{run.storage.at(MANIFEST)}: belongs to other settings than {CONFIG}; {_RESTORE}"
        )  # fmt: skip
    seeds, finished = manifest["seeds"], len(run.finished())
    counted = seeds.get("measured", 0) + seeds.get("controls", 0) + len(seeds.get("failed", ()))
    if finished < counted:
        raise UserError(
            f"{run.rows.storage}: holds {finished} of the {counted} seeds and controls that {MANIFEST} counts; run the "
            "sweep again with --resume, which measures those that are missing"
        )


def repair(run: RunDirectory, config: SweepConfig, say: Callable[[str], None]) -> None:
    """Set aside what is damaged, so that it is made anew, and say so; only for who holds the run's lock."""
    storage, before = run.storage, run.rows.files()
    if run.has_config() and run.damaged_config():
        storage.rename(CONFIG, f"{CONFIG}.damaged")
        say(f"{storage.at(CONFIG)}: damaged; written anew, since the rows are of the settings given now")
    elif run.has_config() and run.config().number_fingerprint() != config.number_fingerprint():
        say(f"{storage.at(CONFIG)}: was changed since the rows were measured; written anew with their settings")
        storage.remove(CONFIG)
    broken = [file for file in before if file.damage and not file.foreign]
    for file in broken:
        aside = run.rows.set_aside(file)
        say(f"{run.rows.storage.at(file.name)}: damaged ({file.damage}); now {aside}, its seeds are measured again")
    run.rows.examples.remove_all_but({file.examples for file in run.rows.files() if file.examples})
    for name in _damaged_searches(run):
        storage.rename(name, f"{name}.damaged")
        say(f"{storage.at(name)}: damaged; made again from the search's journal")
    manifest = _manifest_problem(run)
    if manifest or broken:
        _set_manifest_aside(run, manifest, say)
    if run.has_config():
        if run.config().fingerprint() != config.fingerprint():
            extend(run, run.config(), config, say)
        keep_chosen(run, config, say)


def _set_manifest_aside(run: RunDirectory, problem: str | None, say: Callable[[str], None]) -> None:
    """Without a manifest the run counts as unfinished, until it writes another."""
    if problem:
        run.storage.rename(MANIFEST, f"{MANIFEST}.damaged")
        say(f"{run.storage.at(MANIFEST)}: {problem}; written again at the end")
    else:
        run.storage.remove(MANIFEST)


def _manifest_problem(run: RunDirectory) -> str | None:
    if any(entry.name == MANIFEST and entry.folder for entry in run.storage.list()):
        return "a directory"
    try:
        run.manifest()
    except UserError:
        return "damaged"
    return None


def _check_same(run: RunDirectory, config: SweepConfig) -> None:
    """The stored settings are those given now; or all rows are of those given now, so that they can be restored."""
    stored = None if run.damaged_config() else run.config() if run.has_config() else None
    changed = [] if stored is None else differences(stored, config)
    if stored is not None and not changed:
        check_extension(run, stored, config)
        return
    fingerprints = {file.settings for file in run.rows.files() if not file.damage}
    same_numbers = stored is not None and stored.number_fingerprint() == config.number_fingerprint()
    if not same_numbers and fingerprints and fingerprints <= run.accepted(config):
        return
    if stored is None:
        if not run.has_config() and not run.damaged_config():
            raise UserError(f"{run}: nothing to resume, it holds no {CONFIG}; leave --resume out")
        raise UserError(
            f"{run.storage.at(CONFIG)}: damaged, and no rows show which settings they were measured with; "
            "start again with another --output"
        )
    raise UserError(
        f"{run}: cannot resume with other settings, {', '.join(changed)}; use the settings of its {CONFIG}, or another "
        "--output"
    )


_RESTORE = f"put {CONFIG} back as it was, or measure with these settings into another directory"


def _check_rows(run: RunDirectory, config: SweepConfig) -> None:
    """All rows that are not damaged are of these settings, of seeds of the sweep, and once there."""
    files = run.rows.files()
    for problem in _foreign(run, files, config):
        raise UserError(problem)
    run.rows.check_once([file for file in files if not file.damage])


def _foreign(run: RunDirectory, files: list[MeasurementFile], config: SweepConfig) -> Iterator[str]:
    accepted, seeds = run.accepted(config), set(config.seeds)
    sound = [file for file in files if not file.damage]
    others = [file for file in sound if file.settings is not None and file.settings not in accepted]
    if others and len(others) == len(sound):
        yield (
            f"{run.storage.at(CONFIG)}: its settings are not those that the rows in measurements/ were measured with "
            f"(such as {others[0].name}); {_RESTORE}"
        )
    chosen = _chosen_finetune(run, config)
    for file in files:
        place = run.rows.storage.at(file.name)
        if file.foreign:
            yield f"{place}: foreign ({file.damage}); move it away"
        if file in others:
            yield f"{place}: foreign, its rows were measured with other settings than those of {CONFIG}; move it away"
        if strange := sorted({seed for seed, _ in file.units} - seeds):
            yield f"{place}: foreign, it holds seed {strange[0]}, which is not of this sweep; move it away"
        if file.finetune and chosen and file.finetune != chosen:
            yield (
                f"{place}: its rows were measured with other fine-tuning settings than those that "
                "search/finetune.parquet says were chosen; move away the one of the two that is not of this run"
            )


def _chosen_finetune(run: RunDirectory, config: SweepConfig) -> str | None:
    """The fingerprint of the fine-tuning settings that were chosen, if that can be told."""
    try:
        chosen = run.finetune(config)
    except UserError:
        return None
    return fingerprint_of(chosen) if chosen else None


def _check_searches(run: RunDirectory, config: SweepConfig) -> None:
    """What was searched is of these settings."""
    for name, schema in SEARCHES.items():
        if not run.storage.exists(name):
            continue
        try:
            about = about_of(read_table(run.storage, name, schema, "").schema)
        except UserError:
            continue  # damaged: told, or made again, elsewhere
        if "settings" in about and about["settings"] not in run.accepted(config):
            raise UserError(f"{run.storage.at(name)}: is of another sweep than {CONFIG}; move it away, then --resume")


def _damaged_searches(run: RunDirectory) -> Iterator[str]:
    for name, read in zip(SEARCHES, (run.seed_search, run.finetune_search), strict=True):
        try:
            read()
        except UserError:
            yield name
