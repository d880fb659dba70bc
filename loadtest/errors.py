"""Everything that ends a command of `aerie-bench`: one line for its user each, and the command exits with 1.

Failures of single requests are no errors but data (`record.Failure`).
"""


class BenchError(Exception):
    """The message is the line to show."""


class EndpointError(BenchError):
    """An endpoint cannot be reached, or does not say what it must."""


class UnfitPair(BenchError):
    """Two endpoints whose comparison would mean nothing."""


class RequestsFailed(BenchError):
    """Requests of a measurement failed."""


class NoWindow(BenchError):
    """A run without a time in which all workers were busy, or too short to time decoding."""


class TooNoisy(BenchError):
    """Rounds differ more than a result may rest on."""


class PromptsError(BenchError):
    """A prompt file that is missing, empty or broken."""


class TraceError(BenchError):
    """A trace that is missing, empty or broken."""


class CurveError(BenchError):
    """A curve file that is missing or invalid."""


class DocumentError(BenchError):
    """A result file that is missing or invalid."""


class PlanError(BenchError):
    """What a plan was asked for makes no sense, or a file it rests on is missing or broken."""


class TuneError(BenchError):
    """What a tuning rests on is missing or broken, or there is nothing to choose from."""


class TreeError(BenchError):
    """Not a draft tree."""


class OutputError(BenchError):
    """A result that cannot be written."""
