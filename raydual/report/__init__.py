"""Tables and figures of a run directory, as one self-contained page. Loads neither torch nor ray."""

from raydual.report.page import write_report

__all__ = ["write_report"]
