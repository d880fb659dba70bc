"""A finding: what is wrong with a draft, what it would do in production, and how to mend it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks wrong."""

    level: str
    """`error`: the draft does not work as it is. `warning`: it works, and perhaps worse than it could."""
    code: str
    """Stable, for programs."""
    what: str
    consequence: str
    mend: str

    def __str__(self) -> str:
        return f"{self.level} {self.code}: {self.what}. {self.consequence}. {self.mend}."


def error(code: str, what: str, consequence: str, mend: str) -> Finding:
    """The draft does not work as it is."""
    return Finding("error", code, what, consequence, mend)


def warning(code: str, what: str, consequence: str, mend: str) -> Finding:
    """The draft works, and perhaps worse than it could."""
    return Finding("warning", code, what, consequence, mend)
