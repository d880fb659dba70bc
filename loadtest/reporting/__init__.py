"""Results as pages and pictures for people, and as a verdict for CI; the figures are those of the result files."""
