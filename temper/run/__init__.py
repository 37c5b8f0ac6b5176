"""A run is a fold: checkpoint -> stage -> checkpoint. Everything it decides is written to the event log as it happens.

`prepare` gathers what is needed before a step is taken (and is all that `temper check` does), `stage` trains and
watches, `selection` finds the best checkpoint that keeps the tolerance, `folder` is the run folder on disk.
"""
