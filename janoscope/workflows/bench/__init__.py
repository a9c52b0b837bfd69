"""What `janoscope bench` measures: ratios to a baseline in the same run."""
