"""What `janoscope apply` does: a policy or plan run on a pipeline."""
