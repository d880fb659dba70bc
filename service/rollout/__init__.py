"""Roll-outs of drafts: whether a canary is promoted, held or taken back, judged on what Prometheus has."""
