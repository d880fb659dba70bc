"""EAGLE-3 drafts (arXiv 2503.01840): architecture, training, reference decoder, evaluation, SGLang checkpoints."""
