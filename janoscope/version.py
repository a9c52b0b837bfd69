"""The version of the package; of its own, so that nothing has to import the public names to say it."""

__version__ = "0.1.0"
