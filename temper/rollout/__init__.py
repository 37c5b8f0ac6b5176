"""Rollout: tasks, rewards and environments, from a prompt and a reply to a score.

A reward never raises into the run and never gives a silent zero: what went wrong is an outcome with a note.
"""
