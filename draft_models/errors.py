"""What can go wrong with an input, as one exception tree: every message is one line that says what to do."""


class DraftError(Exception):
    """The root: the command line prints it as one line and exits with 1."""


class ConfigError(DraftError):
    """Settings that contradict each other, the target, or the run that is resumed."""


class DataError(DraftError):
    """A data file that cannot be used; names the file and the line."""


class TargetError(DraftError):
    """A target model that cannot be loaded or is of a kind that is not supported."""


class CheckpointError(DraftError):
    """A draft directory or a training state that is missing, incomplete, or does not fit; or a disk that is full."""


class FormatError(DraftError):
    """A published draft that no known format describes, or that has no counterpart here."""


class CatalogError(DraftError):
    """A catalog that breaks its own rules, or a target it does not know."""


class EndpointError(DraftError):
    """An OpenAI endpoint that cannot be asked, refuses, or left prompts without an answer."""


def first_line(error: Exception) -> str:
    """Of its message; its kind where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
