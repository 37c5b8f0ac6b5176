"""Measurements beside other tools, on the same rows, in the same run, each in a process of its own.

`python -m benchmarks.run` writes `benchmarks/results/<date>.json`. Nothing here is part of the installed package.
"""
