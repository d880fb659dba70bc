"""The catalog of published EAGLE-3 drafts (catalog.yaml): which are known for a target, their licence, their source.

Owns the entries' shape and their check. Refuses to own downloads, and any claim of its own about a draft's quality:
every figure carries the source it was read in.
"""

from datetime import date
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from draft_models.config import sentences
from draft_models.errors import CatalogError, ConfigError
from draft_models.tree import TreeShape

CATALOG = Path(__file__).with_name("catalog.yaml")
UNKNOWN = "unknown"


class Tree(BaseModel, frozen=True, extra="forbid"):
    """A draft tree and where it is recommended; `num_draft_tokens` counts the root."""

    num_steps: int
    eagle_topk: int
    num_draft_tokens: int
    source: str = Field(min_length=1)

    def __str__(self) -> str:
        return str(self.shape)

    @property
    def shape(self) -> TreeShape:
        """What evaluation takes."""
        return TreeShape(self.num_steps, self.eagle_topk, self.num_draft_tokens)

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            _ = self.shape
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self


class Draft(BaseModel, frozen=True, extra="forbid"):
    """One published draft: a hub repository, or a path in this one."""

    repository: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    path: str | None = Field(default=None, min_length=1)
    format: Literal["eagle", "sglang", "speculators", "unknown"]
    """As its weights are published; all but `sglang` need `aerie-draft import`, and `unknown` was not seen.

    `sglang` is mostly inferred: its source has SGLang's launch command for the draft as it is; weights were not seen.
    """
    licence: str = Field(default=UNKNOWN, min_length=1)
    licence_source: str | None = None
    source: str = Field(min_length=1)
    """Where it is said to be a draft for this target."""
    published: Tree | None = None
    """The tree in its publishers' launch command, or in SGLang's documentation."""
    profiles: dict[str, Tree] = Field(default_factory=dict)
    """The tree for a profile of `service/runtime/profiles`, where a source names that hardware."""
    note: str | None = None

    @property
    def name(self) -> str:
        """What `--draft` takes."""
        return self.repository or self.path or ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.repository is None) == (self.path is None):
            raise ValueError("a draft has a repository or a path, one of them")
        if (self.licence == UNKNOWN) != (self.licence_source is None):
            raise ValueError(f"{self.name}: a licence needs the page it was seen on, and `unknown` has none")
        return self


class Target(BaseModel, frozen=True, extra="forbid"):
    """A target model and the drafts known for it."""

    name: str = Field(min_length=1)
    drafts: tuple[Draft, ...] = Field(min_length=1)


class Catalog(BaseModel, frozen=True, extra="forbid"):
    """All of catalog.yaml."""

    seen: date
    sources: dict[str, str]
    """Pages that many entries refer to, by a short name."""
    targets: tuple[Target, ...]

    def of(self, name: str) -> tuple[Target, ...]:
        """The targets whose name contains this one, whatever the case.

        Raises:
            CatalogError: there is none.
        """
        found = tuple(target for target in self.targets if name.casefold() in target.name.casefold())
        if not found:
            known = ", ".join(target.name for target in self.targets)
            raise CatalogError(f"no draft is known for {name!r}; known targets: {known}")
        return found

    @model_validator(mode="after")
    def _check(self) -> Self:
        for names in ([target.name for target in self.targets], [draft.name for draft in self._drafts()]):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{', '.join(twice)} is there twice")
        return self

    def _drafts(self) -> list[Draft]:
        return [draft for target in self.targets for draft in target.drafts]


def load_catalog(path: Path = CATALOG) -> Catalog:
    """Raises CatalogError: no such file, no YAML, or an entry that breaks a rule."""
    try:
        return Catalog.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CatalogError(f"{path}: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise CatalogError(f"{path}: {sentences(error)}") from error
