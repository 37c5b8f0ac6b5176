"""Launch: whole runs as processes, here or on a Ray cluster, watched through their log and paused by ending them.

A run that is paused loses the steps since its newest look and nothing else: the same command goes on from there.
"""

LAUNCHED_BY = "TEMPER_LAUNCHED_BY"
"""Environment variable of a run: the process that waits for it, with which it ends."""
