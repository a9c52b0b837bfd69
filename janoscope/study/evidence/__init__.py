"""Evidence: makes the results of a folder of reports/ from its recipe. One module a kind of report; `remake` is the way in."""

from .remake import Request, remake

__all__ = ["Request", "remake"]
