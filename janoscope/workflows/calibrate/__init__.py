"""What `janoscope calibrate` does: record, search on replayed recordings, validate on held-out prompts."""
