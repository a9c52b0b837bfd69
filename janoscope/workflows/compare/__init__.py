"""What `janoscope compare` does: methods on the same prompts and seeds."""
