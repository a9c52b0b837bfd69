"""Evidence: the project's own reports. `remake` makes results from a recipe of reports/, `render_report` draws the page of them."""

from .remake import Request, remake
from .render import render_report

__all__ = ["Request", "remake", "render_report"]
