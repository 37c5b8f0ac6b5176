"""Launch: whole runs as processes, here or on a Ray cluster, watched through their log and paused by ending them.

A run that is paused loses the steps since its newest look and nothing else: the same command goes on from there.
"""
