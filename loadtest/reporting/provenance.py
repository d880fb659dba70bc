"""Where a result file comes from, as the lines of a report."""

from collections.abc import Iterator

from loadtest.document import Document


def of_document(document: Document) -> Iterator[tuple[str, str]]:
    """What every document tells."""
    yield "Command", " ".join(document.argv)
    yield "Measured", f"{document.created:%Y-%m-%d %H:%M} UTC"
    yield "Commit", document.commit or "not known"
    yield "Versions", ", ".join(f"{name} {version}" for name, version in document.versions.items())
