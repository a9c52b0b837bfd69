"""`python -m janoscope`."""

from .cli import main

main()
