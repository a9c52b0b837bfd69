"""What `janoscope schedule` does: recordings into the steps worth computing."""
