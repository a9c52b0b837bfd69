"""The command line: parses, calls one public function, prints. Heavy libraries are imported inside the commands."""

from .app import main

__all__ = ["main"]
