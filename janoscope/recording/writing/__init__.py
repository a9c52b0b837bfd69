"""From arrays to a file: queued, laid out, written, closed so that a kill loses no acknowledged step."""
