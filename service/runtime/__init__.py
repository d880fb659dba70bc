"""The runtime: SGLang with pinned flags, checked before it starts, supervised while it runs."""
