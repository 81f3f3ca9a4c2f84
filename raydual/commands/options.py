"""The arguments and options that several commands share."""

from collections.abc import Iterator
from typing import Annotated

import typer


def _controls(incomplete: str) -> list[str]:
    from raydual.settings.controls import control_names

    return [name for name in control_names() if name.startswith(incomplete)]


def _settings(incomplete: str) -> Iterator[str]:
    """The dotted keys of settings, ready for a value."""
    from raydual.settings.reading import known_keys

    for key in known_keys():
        if key.startswith(incomplete):
            yield f"{key}="


SweepFile = Annotated[str, typer.Argument(metavar="CONFIG", show_default="the quickstart", help="A sweep file (YAML).")]
Study = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        show_default="the quickstart",
        help="A sweep file, or a run directory: then with the fine-tuning settings that its search chose.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        autocompletion=_settings,
        help="Change one setting, for example --set demonstrations=16 or --set search.seeds.keep=8; may be repeated.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", show_default=True, help="Which demonstrations.")]
ControlName = Annotated[
    str,
    typer.Option(
        "--control",
        metavar="NAME",
        autocompletion=_controls,
        help="Measure a control instead: layer_causal, random_step, other_seed, untrained, trained_embeddings, "
        "labels_random, labels_flipped, labels_abstract, permutation_1, …",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of lines for a person.")]
