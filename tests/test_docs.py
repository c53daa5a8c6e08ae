"""The documentation: it builds without a warning, works offline in a browser, and quotes what is in the code."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
import shlex
import subprocess

import pytest
import typer
from docutils.core import publish_doctree
from test_page_browser import ARGUMENTS, BROWSER

from mrict_core import cli
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
    return re.findall(r"^ *(?:python -m mrict_core|mrict) (?!\[)(.*)$", blocks, re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_have_the_options_that_the_pages_give(page):
    """Each command is parsed by the command line itself, which raises for an unknown option; none runs."""
    group = typer.main.get_command(cli.app)
    for line in commands(page):
        command, *arguments = shlex.split(line, comments=True)
        group.commands[command].make_context(command, arguments).close()


def test_options_of_the_suite_are_those_of_run_all():
    usage = (ROOT / "run_all.sh").read_text(encoding="utf-8").split("<<'TEXT'")[1].split("\nTEXT\n")[0]
    for page in PAGES:
        for line in re.findall(r"\./run_all\.sh( [^\n`#)]*)", page.read_text(encoding="utf-8")):
            assert all(option in usage for option in re.findall(r"--[a-z-]+", line)), f"{name(page)}: {line}"


def test_the_first_page_gives_the_starters_error():
    scores = json.loads((ROOT / "checkpoints" / "starter-brain" / "scores.json").read_text(encoding="utf-8"))
    first = " ".join((ROOT / "docs" / "index.md").read_text(encoding="utf-8").split())
    mae = scores["summary"]["all"]["mae_hu"]["mean"]
    assert f"On {scores['n']} such people its mean absolute error inside the body is {mae:.1f} HU" in first


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
    blocks = FENCE.findall((ROOT / "docs" / "faq.md").read_text(encoding="utf-8"))
    quoted = [block.strip() for language, block in blocks if language == "text"]
    assert len(quoted) >= 20
    for message in quoted:
        parts = [part for part in re.split(r"…+", message) if len(part.strip()) > 1]
        assert any(all(part in text for part in parts) for text in texts), message


def test_every_environment_variable_is_explained():
    sources = [ROOT / "run_all.sh", *(ROOT / "mrict_core").rglob("*.py"), *(ROOT / "tests").glob("*.py")]
    used = {found for path in sources for found in re.findall(r"\bMRICT_[A-Z_]+\b", path.read_text(encoding="utf-8"))}
    page = (ROOT / "docs" / "reference" / "environment.md").read_text(encoding="utf-8")
    assert used - set(re.findall(r"MRICT_[A-Z_]+", page)) == set()


def test_docstrings_are_read_without_a_warning():
    """What the API pages show: each docstring, as conf.py hands it to Sphinx."""
    as_shown, count = runpy.run_path(str(ROOT / "docs" / "pages.py"))["plain_docstring"], 0
    for path in (ROOT / "mrict_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                lines = text.split("\n")
                as_shown(None, "", "", None, None, lines)
                publish_doctree("\n".join(lines), str(path), settings_overrides={"halt_level": 2, "report_level": 5})
                count += 1
    assert count > 1000, "each is read, and halt_level raises for a warning"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site without API pages and notebooks; a warning of the build fails."""
    reports = tmp_path_factory.mktemp("reports")
    done = subprocess.run(
        [ROOT / "docs" / "build.sh", "-t", "quick"],
        env=os.environ | {"MRICT_REPORTS": str(reports)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return reports / "site"


def test_every_page_is_in_the_site(site):
    for page in DOCS:
        if page.parent.name not in ("docker", "starter"):
            assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").exists(), name(page)


def test_options_are_written_as_they_are_typed(site):
    assert "--minutes" in (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for page in site.rglob("*.html"):
        assert not re.search(r"[\s\[]–[a-z]{3}", page.read_text(encoding="utf-8")), page.name


def test_nothing_is_loaded_from_the_net(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe|link)\b[^>]*?(?:src|href)=\"(https?:[^\"]*)", page.read_text("utf-8")
        )
        assert loaded == [], page.name


@pytest.mark.skipif(BROWSER is None, reason="no Chromium found; install the package chromium, or set MRICT_BROWSER")
def test_it_works_offline_in_a_browser(site):
    from playwright.sync_api import sync_playwright

    heard, asked = [], []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "index.html").as_uri())
        assert page.locator("article img").first.evaluate("image => image.naturalWidth") > 300
        page.locator(".sd-card", has_text="Start here").click()
        assert page.locator("h1").inner_text().startswith("From a clone")
        page.goto((site / "explanation" / "metrics.html").as_uri())
        assert page.locator("article math").count() >= 2
        page.goto((site / "search.html").as_uri() + "?q=budget")
        page.wait_for_selector("#search-results li a", timeout=20_000)
        found = page.locator("#search-results li a").all_inner_texts()
        assert any("Train for a time" in title for title in found), found
        for path in site.rglob("*.html"):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth") <= 400, path.name
        browser.close()
    assert heard == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
