"""README.md and docs/architecture.md name all existing files and no others."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from architecture_tree import PACKAGE, modules

from mrict_core.experiments import all_variants
from mrict_core.experiments.profiles import PROFILES
from mrict_core.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## What is where")[1].split("```")[1]


def test_the_tree_lists_every_module_where_it_is():
    there = {p.relative_to(ROOT) for p in (ROOT / PACKAGE).rglob("*.py") if not p.name.startswith("__")}
    listed = modules()
    assert set(listed) - there == set(), "in docs/architecture.md, not in the package"
    assert there - set(listed) == set(), "in the package, not in docs/architecture.md"
    assert len(listed) == len(set(listed)), "twice in docs/architecture.md"


def test_rooms_do_not_share_names():
    """Module names are unique; only commands share the name of the module they call."""
    names = Counter(path.name for path in modules() if path.parts[1] not in ("cli",))
    assert [name for name, count in names.items() if count > 1] == []


def test_every_file_in_the_tree_exists():
    named = set(re.findall(r"[a-z_0-9-]+\.(?:py|sh|md|txt|toml)", TREE))
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
    for page in (ROOT / "README.md", ROOT / "docs" / "architecture.md"):
        links = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
        assert links
        for link in links:
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"
