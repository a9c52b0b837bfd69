"""What `janoscope analyze` does: recordings into an analysis and a plan."""
