"""What `janoscope record` does: one generation or a set of prompts into recordings."""
