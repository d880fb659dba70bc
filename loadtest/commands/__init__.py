"""The commands of `aerie-bench`, one module each: `add_options`, and `run`, which returns the exit status."""
