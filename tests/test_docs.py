"""The documentation: it builds without a warning, works offline in a browser, and quotes what is in the code."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys

import pytest
import typer
from test_page_browser import ARGUMENTS, BROWSER

from mrict_core import cli
from mrict_core.errors import MrictError
from mrict_core.paths import ROOT

GENERATED = ("api", "gallery", "benchmarks")  # folders that conf.py writes
DOCS = sorted(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name not in GENERATED)
PAGES = [ROOT / "README.md", *DOCS]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def name(path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if ":" in link:
            assert re.fullmatch(r"https://[\w.-]+\.[a-z]+(/\S*)?", link), link
        else:
            assert (page.parent / link).exists(), link


def commands(page) -> list[str]:
    """Return the command lines of a page's code blocks."""
    blocks = "\n".join(block for _, block in FENCE.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    return re.findall(r"^ *python -m mrict_core (?!\[)(.*)$", blocks, re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_have_the_options_that_the_pages_give(page):
    """Each command is parsed by the command line itself; none runs."""
    group = typer.main.get_command(cli.app)
    for line in commands(page):
        command, *arguments = shlex.split(line, comments=True)
        group.commands[command].make_context(command, arguments).close()


def templates() -> list[str]:
    """Return the texts of the code, with … for what is put in."""
    found = [(ROOT / "run_all.sh").read_text(encoding="utf-8")]
    found[0] = re.sub(r"\$\(\([^)]*\)\)|\$\{?\w+\}?", "…", found[0])
    for path in (ROOT / "mrict_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(p.value if isinstance(p, ast.Constant) else "…" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_quoted_messages_are_in_the_code():
    texts = templates()
    quoted = [block.strip() for language, block in FENCE.findall((ROOT / "docs/faq.md").read_text()) if language == "text"]
    assert len(quoted) >= 20
    for message in quoted:
        parts = [part for part in re.split(r"…+", message) if len(part.strip()) > 1]
        assert any(all(part in text for part in parts) for text in texts), message


def test_every_environment_variable_is_explained():
    sources = [ROOT / "run_all.sh", *(ROOT / "mrict_core").rglob("*.py"), *(ROOT / "tests").glob("*.py")]
    used = {found for path in sources for found in re.findall(r"\bMRICT_[A-Z_]+\b", path.read_text(encoding="utf-8"))}
    page = (ROOT / "docs/reference/environment.md").read_text(encoding="utf-8")
    assert used - set(re.findall(r"MRICT_[A-Z_]+", page)) == set()
