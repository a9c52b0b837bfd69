"""What a user asks for in one call: load MODEL, record it to a file, analyse the file, apply the plan.

Joins all packages left of it and reads and writes their files. Knows neither click nor matplotlib.
"""
