"""Why a roll-out cannot be judged at all. What can be judged but not decided is a verdict, no error (judge.py)."""


class RolloutError(Exception):
    """Wrong input or a Prometheus that does not answer; the message is the one line to show."""
