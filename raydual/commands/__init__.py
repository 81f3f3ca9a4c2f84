"""The program `raydual`: one module for each group of commands, and nothing computed here.

Modules of a group import what computes inside their commands, so that help and mistakes are told at once.
"""

from raydual.commands.program import main, run_command

__all__ = ["main", "run_command"]
