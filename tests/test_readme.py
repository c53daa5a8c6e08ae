"""The README names what is there, and nothing that is not."""

from __future__ import annotations

import re

import pytest

from mrict_core.experiments import all_variants
from mrict_core.experiments.profiles import PROFILES
from mrict_core.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = README.split("## What is where")[1].split("```")[1]
MODULES = sorted(p for p in (ROOT / "mrict_core").rglob("*.py") if p.name not in ("__init__.py", "__main__.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_stands_in_the_tree(path):
    folder = path.parent.name
    assert path.name in TREE or (folder in TREE and path.stem in TREE), f"{path.name} is missing in README.md"


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
