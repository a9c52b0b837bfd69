"""What `janoscope probes check` does: a probe tried on a pipeline, rung by rung."""
