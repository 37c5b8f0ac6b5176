"""Decisions from measurements: pure functions, no files, no models; they see events, stats and errors alone.

`drop` counts how much of the general abilities is gone, with bounds; `guard` says during training whether to go on,
with `forecast` for where the drop will be at the end of the schedule; `frontier` says which checkpoints are worth a
full look and which one the stage hands on, with `joint` for how many were tried. All use the one arithmetic of
`stats.drop`, as the report does, so that they never disagree about a figure.
"""
