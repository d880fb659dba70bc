"""Throughput beyond one machine, on paper and by simulation: what `aerie-bench plan` rests on."""
