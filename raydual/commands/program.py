"""The whole program: its commands, and how it ends.

Exit codes: 0, 2 for a user's mistake (one line for each problem), 128 and its number for a signal.
"""

import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

import raydual
from raydual.commands import checking, metrics, one_seed, planning, reporting, shots, showing, starting, sweeping
from raydual.errors import UserError, did_you_mean, exit_on_user_error
from raydual.process.stopping import received, stoppable

PROGRAM = "raydual"

app = typer.Typer(
    name=PROGRAM,
    help="How alike are in-context learning and fine-tuning in Qwen3? Distributions over seeds, with controls.",
    epilog="Every command has its own --help.",
    invoke_without_command=True,
    # Plain lines, which a log can hold too.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for group in (starting, sweeping, showing, reporting, planning, one_seed, metrics, shots, checking):
    app.add_typer(group.commands)


@dataclass(frozen=True)
class Typed:
    """What was typed: how the program was started, and the arguments."""

    program: str
    arguments: tuple[str, ...]

    @classmethod
    def of(cls, program: str, arguments: Sequence[str] | None) -> "Typed":
        """The given arguments, or this process's own."""
        return cls(program, tuple(sys.argv[1:] if arguments is None else arguments))

    def again(self, option: str) -> str:
        """The same command with an option."""
        return f"{self.program} {shlex.join([*(a for a in self.arguments if a != option), option])}"


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"{PROGRAM} {raydual.__version__}")
        raise typer.Exit


@app.callback()
def _no_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version this is.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(2)


def main(arguments: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Run the program; returns the exit code."""
    if f"_{PROGRAM.upper()}_COMPLETE" in os.environ:
        # A shell asks what may come next; answered, this ends.
        app(prog_name=PROGRAM)
    return _run(commands(), Typed.of(program, arguments))


def run_command(command: str, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run one command alone, in a program of another name; returns the exit code."""
    return _run(commands().commands[command], Typed.of(program, arguments))


def commands() -> TyperGroup:
    """The program, with all its commands by name."""
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def _run(command: Any, typed: Typed) -> int:
    """Run a command as `typed`; returns the exit code."""
    with stoppable():
        try:
            return exit_on_user_error(lambda: _invoke(command, typed))
        except KeyboardInterrupt as stopped:
            number = received()
            print("; ".join([f"stopped by {signal.Signals(number).name}", *_notes(stopped)]), file=sys.stderr)
            return 128 + number


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


def _invoke(command: Any, typed: Typed) -> int:
    # Not by `command.main`, for which every signal is a Ctrl-C.
    try:
        with command.make_context(typed.program, list(typed.arguments), obj=typed) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except typer.TyperException as error:
        raise UserError(_in_one_line(error)) from None
    return 0


def _in_one_line(error: typer.TyperException) -> str:
    """A mistake in what was typed, and where its remedy stands."""
    message = " ".join(error.format_message().replace("Value error, ", "").split()).removesuffix(".")
    choices = re.search(r"'([^']*)' is not one of ((?:'[^']*'(?:, )?)+)$", message)
    if choices:
        message += did_you_mean(choices[1], re.findall(r"'([^']*)'", choices[2]))
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help" if context else message
