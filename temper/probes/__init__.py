"""Probes: named questions put to a model and answered per item.

A kind of probe is a pure function `(policy, renderer, spec, items) -> outcomes`; it asks for log-probabilities or for
greedy replies and gets plain numbers. `suites.run_suite` picks the items of a split, skips what the cache already
knows and assembles one `Measurement` per probe. Nothing here decides anything: that is `temper.decide`.
"""
