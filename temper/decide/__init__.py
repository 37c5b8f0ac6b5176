"""Decisions from measurements: pure functions, no files, no models; they see events, stats and errors alone.

`drop` counts how much of the general abilities is gone, with bounds; `guard` says during training whether to go on;
`frontier` says which checkpoints are worth a full look and which one the stage hands on. All three use the one drop of
`drop.general_drop`, so that guard, choice and report never disagree about a figure.
"""
