"""Several runs beside each other, as the report needs them: the combinations of a sweep's axes, or runs of any kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from raydual.catalogue.entries import Catalogue, Key
from raydual.cells import CellsDirectory, compare_along
from raydual.report.data import Row, RunData
from raydual.run_directory.directory import RunDirectory


@dataclass(frozen=True)
class Compared:
    """Runs by name, the axes along which they differ, and what compares them.

    `values` are the values of each axis, by run; `found` the rows of `ALONG_AXES`; `links` lead to each run's page.
    """

    name: str
    axes: Mapping[str, Sequence[str]]
    values: Mapping[str, Mapping[str, str]]
    runs: Mapping[str, RunData]
    found: Sequence[Row]
    links: Mapping[str, str]

    @classmethod
    def of_cells(cls, directory: CellsDirectory) -> "Compared":
        """The combinations of a sweep's axes."""
        stored = directory.stored()
        return cls(
            stored["name"],
            stored["axes"],
            stored["cells"],
            {name: RunData(directory.cell(name)) for name in stored["cells"]},
            directory.comparisons().to_pylist(),
            {name: f"cells/{name}/report.html" for name in stored["cells"]},
        )

    @classmethod
    def of_runs(cls, runs: Mapping[str, RunDirectory]) -> "Compared":
        """Runs by a name for each; all are compared with the first one, paired over the seeds that both have."""
        values = {name: {"run": name} for name in runs}
        axes = {"run": list(runs)}
        return cls(
            " and ".join(runs),
            axes,
            values,
            {name: RunData(run) for name, run in runs.items()},
            list(compare_along(axes, values, runs)),
            {},
        )

    @cached_property
    def catalogue(self) -> Catalogue:
        """Every metric that all of them measure."""
        catalogues = [run.catalogue for run in self.runs.values()]
        shared = set.intersection(*(set(catalogue) for catalogue in catalogues))
        return Catalogue([metric for metric in catalogues[0].values() if metric.name in shared])

    @cached_property
    def keys(self) -> list[Key]:
        """What is shown."""
        return self.catalogue.in_figures()

    @cached_property
    def comparisons(self) -> list[Row]:
        """The comparisons that are shown."""
        return [row for row in self.found if (row["metric"], row["condition"]) in self.keys]

    def others(self, axis: str, run: str) -> str:
        """The values of all axes but one, in words."""
        return ", ".join(f"{short(name)} {value}" for name, value in self.values[run].items() if name != axis)

    def named(self, run: str) -> str:
        """A run by the values of all its axes."""
        return ", ".join(f"{short(name)} {value}" for name, value in self.values[run].items())


def short(axis: str) -> str:
    """An axis as a person reads it."""
    return axis.removeprefix("finetune.").replace("_", " ")
