"""The catalog says only what has a source, and is found wherever the package is."""

import argparse
import json
import tomllib
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from draft_models.catalog import CATALOG, Draft, Tree, load_catalog
from draft_models.commands import list_
from draft_models.errors import CatalogError, DraftError
from draft_models.tree import TreeShape

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "service" / "runtime" / "profiles"
PAGES = ("https://github.com/", "https://huggingface.co/")


def run(*arguments):
    parser = argparse.ArgumentParser()
    list_.add_options(parser)
    return list_.run(parser.parse_args(arguments))


@pytest.fixture(scope="module")
def drafts():
    return [draft for target in load_catalog().targets for draft in target.drafts]


def test_every_entry_every_licence_and_every_tree_has_a_source(drafts):
    for draft in drafts:
        trees = [*draft.profiles.values(), *filter(None, [draft.published])]
        pages = [draft.source, *filter(None, [draft.licence_source]), *(tree.source for tree in trees)]
        for page in pages:
            assert page.startswith(PAGES) or (ROOT / page).exists(), page
            assert not (ROOT / page).is_relative_to(PROFILES), (
                f"{page}: a profile of ours says nothing but what we wrote"
            )


def test_every_tree_and_every_common_source_is_pinned_to_a_commit_or_a_file_of_ours(drafts):
    trees = [tree for draft in drafts for tree in (*draft.profiles.values(), draft.published) if tree is not None]
    for page in (*load_catalog().sources.values(), *(tree.source for tree in trees)):
        assert (ROOT / page).exists() or len(page.split("/")[6]) == 40, page


def test_every_profile_is_one_of_ours_and_our_own_draft_is_where_it_says(drafts):
    profiles = {path.stem for path in PROFILES.glob("*.yaml")}
    assert {name for draft in drafts for name in draft.profiles} <= profiles
    for draft in drafts:
        assert draft.path is None or (ROOT / draft.path / "config.json").exists()


def test_a_profile_s_own_draft_is_in_the_catalog_with_the_profile_s_tree_and_served_without_an_import(drafts):
    known = {draft.name: draft for draft in drafts}
    for path in PROFILES.glob("*.yaml"):
        ours = yaml.safe_load(path.read_text())["speculation"]
        draft = known[ours["draft"]]
        assert draft.format == "sglang"
        tree = draft.profiles.get(path.stem, draft.published)
        assert str(tree) == f"{ours['num_steps']}/{ours['eagle_topk']}/{ours['num_draft_tokens']}"


def test_the_catalog_and_all_packages_are_part_of_an_installation():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert CATALOG.name in setuptools["package-data"]["draft_models"]
    included = setuptools["packages"]["find"]["include"]
    packages = {path.parent.relative_to(ROOT) for path in (ROOT / "draft_models").rglob("__init__.py")}
    missing = [name for name in (str(path).replace("/", ".") for path in packages) if name not in included]
    assert "draft_models*" in included or not missing


@given(steps=st.integers(0, 6), topk=st.integers(0, 5), tokens=st.integers(0, 200))
def test_trees_are_those_that_evaluation_can_measure(steps, topk, tokens):
    def is_valid(make):
        try:
            make()
        except (DraftError, ValueError):
            return False
        return True

    assert is_valid(
        lambda: Tree(num_steps=steps, eagle_topk=topk, num_draft_tokens=tokens, source="x")
    ) == is_valid(lambda: TreeShape(steps, topk, tokens))  # fmt: skip


GOOD = {"repository": "a/b", "format": "eagle", "source": "https://github.com/a"}


def write(path, drafts, **more):
    targets = [{"name": "target", "drafts": drafts}]
    path.write_text(yaml.safe_dump({"seen": "2026-01-01", "sources": {}, "targets": targets} | more))
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"licence": "mit"}, "a licence needs the page"),
        ({"licence_source": "https://github.com/a"}, "a licence needs the page"),
        ({"path": "x"}, "a repository or a path, one of them"),
        ({"repository": None}, "a repository or a path, one of them"),
        ({"format": "gguf"}, "format"),
        ({"source": ""}, "source"),
        ({"stars": 5}, "stars: Extra inputs"),
        ({"published": {"num_steps": 3, "eagle_topk": 1, "num_draft_tokens": 9, "source": "x"}}, "within 4..4"),
    ],
)
def test_an_entry_that_breaks_a_rule_is_one_clear_line(change, says, tmp_path):
    with pytest.raises(CatalogError, match=says) as failure:
        load_catalog(write(tmp_path / "c.yaml", [GOOD | change]))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("text", ["{", "- 1", "", "a: !!python/object/apply:os.system [true]"])
def test_a_file_that_is_no_catalog_is_one_clear_line(text, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(CatalogError, match=r"c\.yaml"):
        load_catalog(tmp_path / "c.yaml")


def test_a_draft_is_there_once(tmp_path):
    with pytest.raises(CatalogError, match="a/b is there twice"):
        load_catalog(write(tmp_path / "c.yaml", [GOOD, GOOD]))


def test_entries_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Draft(**GOOD).licence = "mit"


def test_the_list_names_licence_format_trees_and_sources(capsys):
    assert run("--target", "llama-3.1-8b") == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == "meta-llama/Llama-3.1-8B-Instruct"
    assert "licence apache-2.0; format eagle\n" in text
    assert "format sglang; published 3/1/4" in text
    assert "licence unknown" in text
    assert "https://github.com/SafeAILab/EAGLE/blob/" in text
    assert "135M" not in text


def test_the_list_is_for_programs_too(capsys):
    assert run("--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [target["name"] for target in found] == [target.name for target in load_catalog().targets]
    assert found[0]["drafts"][0]["path"] == "draft_models/smollm2-135m-instruct-eagle3"


def test_a_target_that_is_not_known_is_answered_with_those_that_are():
    with pytest.raises(CatalogError, match=r"no draft is known for 'gpt-5'; known targets: .*openai/gpt-oss-20b"):
        run("--target", "gpt-5")
