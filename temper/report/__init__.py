"""The report: a function of the event log that writes one HTML file, and a summary for machines.

`render_report(events)` draws the page; `summarise(events)` gives the figures of `temper report --json`. Inside, data
walks one way: `runlog` sorts the events, `retention` counts drops from per-item values, `summary` and `sections` turn
them into rows and words, `chain` follows a run from stage to stage, `svg`, `charts` and `chain_picture` draw, `html`
puts them into `page.html.j2` with `page.css` and `page.js`.
"""

from __future__ import annotations

from temper.report.html import render_report
from temper.report.summary import summarise

__all__ = ["render_report", "summarise"]
