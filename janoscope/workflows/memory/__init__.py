"""What `janoscope memory` predicts: the memory of a model and of its caches, without its weights."""
