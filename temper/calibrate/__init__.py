"""Calibration: from facts about model, data and machine to hyperparameters, each with its rule and its evidence.

`table.toml` holds the numbers and where they come from; `rules` are the pure functions that pick from it. Nothing here
reads a recipe or a data file.
"""
