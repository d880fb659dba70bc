# ruff: noqa: T201  it talks to a terminal
"""The EAGLE-3 drafts that are known, by target: licence, format, trees and the source of each."""

import argparse
import json

from draft_models.catalog import Draft, Target, Tree, load_catalog


def add_options(parser: argparse.ArgumentParser) -> None:
    """Of `aerie-draft list`."""
    parser.add_argument("--target", metavar="NAME", help="only targets whose name contains this")
    parser.add_argument("--json", action="store_true", help="the entries as JSON")


def run(options: argparse.Namespace) -> int:
    """Exit status 0, or a CatalogError for a target that is not known."""
    catalog = load_catalog()
    targets = catalog.targets if options.target is None else catalog.of(options.target)
    if options.json:
        print(json.dumps([target.model_dump(mode="json") for target in targets], indent=2))
    else:
        print("\n\n".join(map(_block, targets)))
    return 0


def _block(target: Target) -> str:
    return "\n".join([target.name, *(line for draft in target.drafts for line in _lines(draft))])


def _lines(draft: Draft) -> list[str]:
    trees = [f"{profile} {tree}" for profile, tree in draft.profiles.items()]
    trees += [f"published {draft.published}"] * (draft.published is not None)
    facts = [f"licence {draft.licence}", f"format {draft.format}", *trees, *([draft.note] if draft.note else [])]
    sources = dict.fromkeys(
        [draft.source, *(tree.source for tree in _trees(draft)), *filter(None, [draft.licence_source])]
    )
    return [f"  {draft.name}", f"    {'; '.join(facts)}", *(f"    {source}" for source in sources)]


def _trees(draft: Draft) -> list[Tree]:
    return [*draft.profiles.values(), *filter(None, [draft.published])]
