"""The commands of `aerie-draft`, one module each: `add_options(parser)`, and `run(options)` for the exit status.

A module's docstring is its help text.
"""
