"""Techniques: from a resolved stage and its rows to a plan: a feed, an objective, a number of steps, a schedule.

A technique never sees an optimiser, a model's weights or the loop.
"""
