"""Evidence: draws a folder of reports/ from its committed results: report.md and figures. One module a kind of report."""

from .render import render_report

__all__ = ["render_report"]
