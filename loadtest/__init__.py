"""Load tests of OpenAI endpoints: what speculation gains over a baseline, measured and with its uncertainty.

Meets `service` and `draft_models` over HTTP and in files only; imports neither, and no torch.
"""
