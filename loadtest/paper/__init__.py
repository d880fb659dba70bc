"""The EAGLE-3 paper's experiments (arXiv 2503.01840v3), repeated in form for any model that a runtime serves."""
