"""Recipes: what the user writes, checked in full before anything is loaded, every `auto` filled with its evidence.

`schema` holds the frozen models, `values` how a number, a share or a path is written, `document` the YAML with its line
numbers; `load` ties them together and applies `--set`; `explain` turns what pydantic finds into sentences a user can
act on; `resolve` fills in what was left open; `init` writes a first recipe for a folder of files. Nothing here reads a
model; nothing imports torch.
"""
