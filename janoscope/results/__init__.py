"""Results: what commands leave on disk, read and written in one place.

Reads bytes of anybody's making, gives checked data; writes files whole or not at all. Knows neither torch nor matplotlib.
"""
