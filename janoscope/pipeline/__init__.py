"""A diffusers pipeline, loaded, called and described."""
