"""One module a kind of report: `make` runs it, `draw` shows it."""
