"""What skipped tokens and steps are served from: stored keys, values and outputs, where they lie and in which form."""
