"""`python -m tests.kernels SWEEP OUT`: a study measured by the kernels that the environment chooses.

Beside the variables of torch, MKL and oneDNN, `WITHOUT_ONEDNN` leaves the last of them out.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch

import raydual
from raydual.measure.rows import Row
from raydual.one_seed.laboratory import Laboratory
from raydual.settings.controls import controls_of


def measured(laboratory: Laboratory) -> list[Row]:
    """All rows of a sweep's seeds, and of its controls."""
    study, rows = laboratory.study, []
    units = study.units(laboratory.seeds)
    for control in controls_of(study.config.controls):
        cases = [study.case(laboratory.loaded.tokenizer, unit) for unit in units if unit.control == control]
        rows += laboratory.measurer.measure(control, cases)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the rows as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("sweep", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(arguments)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if "WITHOUT_ONEDNN" in os.environ:
        torch.backends.mkldnn.set_flags(False)
    args.out.write_text(json.dumps(measured(Laboratory(raydual.load_config(args.sweep)))), encoding="utf-8")


if __name__ == "__main__":
    main()
