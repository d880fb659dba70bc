"""Published EAGLE-3 drafts in other people's formats, one module each, and their import into SGLang's.

A format's module satisfies `Format` (reading.py): it says what it recognises, how its configuration reads in our terms,
and what its tensors are called in SGLang. `importing.py` does the rest, `report.py` is what it says about it.
"""
