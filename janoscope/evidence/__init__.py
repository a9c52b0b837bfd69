"""Evidence: the project's own reports. `remake` makes the results of a folder of reports/, `render_report` draws its page."""

from .remake import Request, remake
from .render import render_report

__all__ = ["Request", "remake", "render_report"]
