"""The file of repeated experiments, `aerie-paper/1`: whole comparisons, named for the tables and figures they fill.

Owns the fields. Refuses to own how they are measured (experiment.py) and their looks (text.py).
"""

from typing import Literal

from loadtest.comparison import Comparison
from loadtest.document import Document, NotNegative, Part, Words

Name = Literal["table_1", "table_3", "figure_7"]


class Experiment(Part):
    """One method's part of a table or figure."""

    name: Name
    method: Words
    temperature: NotNegative
    comparison: Comparison


class Paper(Document):
    """The file."""

    format: Literal["aerie-paper/1"] = "aerie-paper/1"
    partial: bool
    not_measured: dict[str, str]
    experiments: tuple[Experiment, ...]

    def of(self, name: Name) -> tuple[Experiment, ...]:
        """The parts of one table or figure."""
        return tuple(each for each in self.experiments if each.name == name)
