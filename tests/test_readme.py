"""The README names what is there, and nothing that is not."""

from __future__ import annotations

import re

import pytest
from readme_tree import PACKAGE, README, TREE, modules

from mrict_core.experiments import all_variants
from mrict_core.experiments.profiles import PROFILES
from mrict_core.paths import ROOT


def test_the_tree_lists_every_module_where_it_is():
    there = {p.relative_to(ROOT) for p in (ROOT / PACKAGE).rglob("*.py") if not p.name.startswith("__")}
    listed = modules()
    assert set(listed) - there == set(), "in README.md, not in the package"
    assert there - set(listed) == set(), "in the package, not in README.md"
    assert len(listed) == len(set(listed)), "twice in README.md"


def test_every_file_in_the_tree_exists():
    named = set(re.findall(r"[a-z_0-9]+\.(?:py|sh|md|txt|toml)", TREE))
    there = {p.name for p in ROOT.rglob("*") if p.is_file() and ".venv" not in p.parts}
    assert named <= there, f"not in the repository: {sorted(named - there)}"


def test_every_notebook_stands_in_the_tree():
    assert all(path.stem in TREE for path in (ROOT / "notebooks").glob("*.ipynb"))


def test_the_number_of_experiments_is_true():
    assert f"**{len(all_variants())} named experiments**" in README


@pytest.mark.parametrize("name", sorted(set(PROFILES) - {"smoke"}))
def test_profiles_are_explained(name):
    assert f"--profile {name}" in README


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    for link in links:
        assert link.startswith("http") or (ROOT / link).exists(), link
