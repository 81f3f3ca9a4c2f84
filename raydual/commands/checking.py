"""`raydual check`: before a cluster is started."""

from pathlib import Path
from typing import Annotated

import typer

from raydual.errors import UserError

commands = typer.Typer()


@commands.command()
def check(
    cluster: Annotated[
        Path, typer.Argument(metavar="CLUSTER.yaml", help="A cluster file, as `ray up` takes it.")
    ] = Path("cluster.yaml"),
) -> None:
    """Say what a cluster file lacks before `ray up`."""
    from raydual.cluster.check import problems

    found = problems(cluster)
    if found:
        raise UserError("\n".join(f"{cluster}: {line}" for line in found))
    print(f"{cluster}: nothing is missing on this machine; next: ray up {cluster}")
