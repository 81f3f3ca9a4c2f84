"""Seeds for which fine-tuning, or the context, changed nothing: what is compared with it then says nothing."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from raydual.catalogue.entries import OVERALL

METRICS = ("accuracy", "greedy_accuracy", "rec2ftp_ft", "reverse_recall", "update_norm")
"""The metrics that tell it."""
_EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-7}
_ROUNDINGS = 4
"""So many steps of the forward passes' precision, relative to the attention output, are put down to rounding."""
_ARMS = {
    "ft": ("fine-tuning", "take a greater finetune.learning_rate, or search for one"),
    "icl": ("the context", "look at the prompts: template, separator and demonstrations"),
}


def unchanged(rows: Iterable[Mapping[str, Any]], dtype: str) -> dict[str, set[int]]:
    """The seeds for which an arm (`ft`, `icl`) changed nothing, by arm.

    It changed nothing where exactly the same examples are right as in zero-shot, by label words and by the greedy
    token, and the attention output moved by no more than rounding. `rows` are those of the measurement, or some of
    them: a seed whose rows do not tell is not among the seeds.
    """
    seeds: dict[int, dict[tuple[str, str], Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        if row["layer"] == OVERALL and row["metric"] in METRICS:
            seeds[row["seed"]][row["metric"], row["condition"]] = row
    return {arm: {seed for seed, found in seeds.items() if _is_unchanged(found, arm, dtype)} for arm in _ARMS}


def _is_unchanged(found: Mapping[tuple[str, str], Mapping[str, Any]], arm: str, dtype: str) -> bool:
    try:
        same = all(
            found[metric, arm]["value"] == found[metric, "zsl"]["value"] for metric in ("accuracy", "greedy_accuracy")
        )
        corrected = (
            found["rec2ftp_ft", "icl-ft"]["value"] if arm == "ft" else found["reverse_recall", "icl-ft"]["examples"]
        )
        moved = found["update_norm", arm]["value"]
    except KeyError:
        return False
    return same and corrected == 0 and moved <= _ROUNDINGS * _EPSILON[dtype]


def warnings_of(rows: Iterable[Mapping[str, Any]], dtype: str, measured: int = 1) -> Iterator[str]:
    """A sentence for each arm that changed nothing, in some of the `measured` seeds."""
    for arm, seeds in unchanged(rows, dtype).items():
        if seeds:
            name, remedy = _ARMS[arm]
            which = f"for {len(seeds)} of {measured} seeds" if measured > 1 else f"for seed {min(seeds)}"
            yield (
                f"{name} changed nothing {which}: the same predictions, and attention outputs that differ by rounding "
                f"alone, so that what is compared with it says nothing; {remedy}."
            )
