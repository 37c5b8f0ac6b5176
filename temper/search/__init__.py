"""Search: which values of a recipe are best on both axes, for a budget, by running it several times.

`space` reads the ranges that a recipe holds, `trial` says what the log of a trial shows, `rungs` decides which trial
goes on, `suggest` asks Optuna for the next values, `study` keeps trials at work until none pays any more. A trial is an
ordinary `temper run` in a folder of its own: it is paused by ending its process and goes on by the same command.
"""
