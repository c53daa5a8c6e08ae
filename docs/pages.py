"""Pages that the repository writes itself: API, command line, experiments, notebooks with their outputs.

`write` makes whole pages in docs/reference/api, docs/gallery and docs/benchmarks (not in git); `fill` puts generated
text in place of a `<!-- generated: NAME -->` mark. Sphinx calls both, see conf.py.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import nbformat

from mrict_core.paths import ROOT, reports_root

DOCS = ROOT / "docs"
API, GALLERY, MEASURED = DOCS / "reference" / "api", DOCS / "gallery", DOCS / "benchmarks"
# how-tos
FIRST = ("install", "own_data", "dicom", "score", "budgets", "variant", "loss", "network", "metric", "method", "view")
BENCHMARKS = ROOT / "reports" / "benchmarks"  # in git, unlike all other reports
MARK = re.compile(r"<!-- generated: (\w+) -->")
CODE = re.compile(r"`([^`\n]+)`")
COLUMNS = re.compile(r"^ |\S {2,}\S")
MARKUP = re.compile(r"[\\*|`_]")
LINK = re.compile(r"(!?\[[^\]]*\])\(([^)#\s]+)(#[^)\s]*)?\)")
NOT_MADE = "No notebook has been run here yet: `./run_all.sh` runs them, `docs/build.sh` then shows them on this page."


def write(app) -> None:
    """Write the API pages and the notebooks, unless the build is `quick`."""
    for folder in (API, GALLERY, MEASURED):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for path in [*BENCHMARKS.glob("*.md"), *BENCHMARKS.glob("*.png")]:
        shutil.copy(path, MEASURED)
    if not app.tags.has("quick"):
        for room, title in rooms():
            (API / f"{room}.rst").write_text(api_page(room, title), encoding="utf-8")
        for path in notebooks():
            (GALLERY / f"{path.stem}.md").write_text("\n\n".join(notebook_page(path)), encoding="utf-8")


def fill(app, page: str, source: list[str]) -> None:
    """Put generated text in place of the marks of a page, and adapt its links to the site."""
    text = MARK.sub(lambda mark: GENERATED[mark[1]](app), source[0])
    source[0] = text if page.startswith("gallery/") else LINK.sub(lambda link: inside(link, DOCS / page), text)


def inside(link: re.Match, page: Path) -> str:
    """Return a link that leaves docs/ so that the site can follow it; to a folder or a README, as its path in words."""
    text, target, anchor = link[1], link[2], link[3] or ""
    path = Path(os.path.normpath(page.parent / target))
    if path.is_relative_to(BENCHMARKS) and path.is_file():
        return f"{text}({Path(os.path.relpath(MEASURED / path.name, page.parent)).as_posix()}{anchor})"
    if path.exists() and not path.is_relative_to(DOCS) and (path.is_dir() or path.suffix == ".md"):
        return f"{text[1:-1]} (`{path.relative_to(ROOT)}`)"
    return link[0]


def howtos(app) -> str:
    """Return the toctree of docs/howto: the pages of `FIRST`, then all others."""
    names = sorted(path.stem for path in (DOCS / "howto").glob("*.md") if path.stem != "index")
    rest = [name for name in names if name not in FIRST]
    return "\n".join(["```{toctree}", ":maxdepth: 1", "", *FIRST, *rest, "```"])


def measured(app) -> str:
    """Return the toctree of the benchmarks' results."""
    return "\n".join(
        ["```{toctree}", "", *(f"../benchmarks/{path.stem}" for path in sorted(MEASURED.glob("*.md"))), "```"]
    )


# API


def rooms() -> list[tuple[str, str]]:
    """Return (room, what it is) in the order of imports, as docs/architecture.md lists them."""
    tree = (DOCS / "architecture.md").read_text(encoding="utf-8").split("\nmrict_core/\n")[1].split("```")[0]
    found = re.findall(r"^  ([a-z_]+)(?:/|\.py) +(.*)$", tree, re.MULTILINE)
    return [(room, title) for room, title in found if room != "cli"]  # it has a page of its own


def api_page(room: str, title: str) -> str:
    """Return the page of a room: the docstrings of its modules."""
    files = sorted((ROOT / "mrict_core" / room).rglob("*.py")) or [ROOT / "mrict_core" / f"{room}.py"]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in files]
    head = f"{room}\n{'=' * len(room)}\n\n{title[:1].upper()}{title[1:]}.\n"
    return "\n".join([head, *(api_section(name) for name in names if not name.endswith(".__main__"))])


def api_section(module: str) -> str:
    """Return the section of a module."""
    return f"{module}\n{'-' * len(module)}\n\n.. automodule:: {module}\n   :members:\n   :ignore-module-all:\n"


def api_list(app) -> str:
    """Return the list of rooms, and the toctree of their pages if the build has them."""
    if app.tags.has("quick"):
        return "This build has no API pages."
    table = "\n".join(f"| [{room}](api/{room}.rst) | {title} |" for room, title in rooms())
    entries = "\n".join(f"api/{room}" for room, _ in rooms())
    return f"| room | |\n| --- | --- |\n{table}\n\n```{{toctree}}\n:hidden:\n\n{entries}\n```"


def plain_docstring(app, what, name, thing, options, lines: list[str]) -> None:
    """Make a docstring, which is plain text with `code`, reStructuredText: nothing else in it is markup."""
    text = "\n".join(lines).replace(":\n- ", ":\n\n- ")
    lines[:] = "\n\n".join(map(as_rest, text.split("\n\n"))).split("\n")


def as_rest(paragraph: str) -> str:
    """Return a paragraph as reStructuredText; one laid out in columns or with indented lines is kept as it is."""
    lines = paragraph.split("\n")
    if not paragraph.startswith("- ") and any(COLUMNS.search(line) for line in lines):
        return "\n".join(["::", "", *(f"   {line}" for line in lines)])
    parts = CODE.split(paragraph)
    parts[0::2] = [MARKUP.sub(r"\\\g<0>", text) for text in parts[0::2]]
    parts[1::2] = [rf"\ ``{code}``\ " for code in parts[1::2]]
    return "".join(parts)


# Command line and experiments


def command_line(app) -> str:
    """Return every command with its arguments and options, as `--help` prints them."""
    import typer
    from typer.cli import get_docs_for_click

    from mrict_core.cli import app as commands

    command = typer.main.get_command(commands)
    name = "python -m mrict_core"
    text = get_docs_for_click(obj=command, ctx=typer.Context(command, info_name=name), name=name)
    text = "## " + text.partition("\n## ")[2]  # without its own list of commands, which cuts the texts off
    text = re.sub(rf"^(#+) `{name} (.+)`", r"\1 \2", text, flags=re.MULTILINE)
    text = re.sub(r"^Example: (.+)$", r"Example: `\1`", text, flags=re.MULTILINE)
    rows = [f"| [`{key}`](#{key}) | {one.get_short_help_str(200)} |" for key, one in command.commands.items()]
    return "\n".join(["| command | |", "| --- | --- |", *rows, "", text])


def experiments(app) -> str:
    """Return a table of the declared experiments for each family."""
    from mrict_core.experiments import all_variants
    from mrict_core.experiments.listing import losses

    lines = []
    for family, members in groupby(all_variants(), attrgetter("family")):
        lines += ["", f"## {family}", "", "| name | starts from | generator | loss of G | why |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for one in members:
            start, generator = one.init_from or "scratch", next(iter(one.network.values())).name
            lines.append(f"| `{one.name}` | {start} | `{generator}` | {losses(one)} | {one.why} |")
    return "\n".join(lines)


# Notebooks


def notebooks() -> list[Path]:
    """Return the executed notebooks that the last `./run_all.sh` left."""
    return sorted((reports_root() / "executed").glob("*.ipynb"))


def notebook_page(path: Path) -> Iterator[str]:
    """Yield an executed notebook as Markdown, part by part; its pictures become files beside the page."""
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "markdown":
            yield LINK.sub(from_notebook, cell.source)
        elif cell.cell_type == "code" and cell.source.strip():
            yield fenced("python", cell.source)
            for place, output in enumerate(cell.outputs):
                yield from shown(output, f"{path.stem}_{number}_{place}.png")


def shown(output: nbformat.NotebookNode, picture: str) -> Iterator[str]:
    """Yield an output in its richest form that a page can show without scripts."""
    data = output.get("data", {})
    if output.output_type == "stream":
        yield fenced("none", output.text)
    elif output.output_type == "error":
        yield fenced("none", f"{output.ename}: {output.evalue}")
    elif "image/png" in data:
        (GALLERY / picture).write_bytes(base64.b64decode(data["image/png"]))
        yield f"![output]({picture})"
    elif "text/html" in data:
        yield fenced("{raw} html", f'<div class="output">{data["text/html"]}</div>')
    elif "text/markdown" in data:
        yield LINK.sub(from_notebook, data["text/markdown"])
    elif "text/plain" in data:
        yield fenced("none", data["text/plain"])


def fenced(language: str, text: str) -> str:
    """Return text in a fence that nothing in it can close."""
    return f"``````{language}\n{text.rstrip()}\n``````"


def from_notebook(link: re.Match) -> str:
    """Return a notebook's link as seen from docs/gallery; text alone where the site has no such page."""
    text, target, anchor = link[1], link[2], link[3] or ""
    if target.startswith("http"):
        return link[0]
    path = Path(os.path.normpath(ROOT / "notebooks" / target))
    if path.suffix == ".ipynb" and path.stem in {done.stem for done in notebooks()}:
        return f"{text}({path.stem}.md{anchor})"
    if path.is_relative_to(DOCS) and path.is_file():
        return f"{text}({Path(os.path.relpath(path, GALLERY)).as_posix()}{anchor})"
    return text.lstrip("!")[1:-1]


def gallery(app) -> str:
    """Return a card for every executed notebook, with a picture from it."""
    if app.tags.has("quick") or not notebooks():
        return NOT_MADE
    cards = []
    for path in notebooks():
        pictures = sorted(GALLERY.glob(f"{path.stem}_*.png"), key=lambda p: p.stat().st_size)
        picture = [f":img-top: gallery/{pictures[-1].name}"] if pictures else []
        title = re.search(r"^# (.+)$", (GALLERY / f"{path.stem}.md").read_text(encoding="utf-8"), re.MULTILINE)
        options = [f":link: gallery/{path.stem}", ":link-type: doc", *picture]
        cards += [
            f":::{{grid-item-card}} {title[1] if title else path.stem}",
            *options,
            "",
            f"`{path.stem}`",
            ":::",
            "",
        ]
    toctree = ["```{toctree}", ":hidden:", "", *(f"gallery/{path.stem}" for path in notebooks()), "```"]
    return "\n".join(["::::{grid} 1 2 2 3", ":gutter: 3", "", *cards, "::::", "", *toctree])


GENERATED = {
    "api": api_list,
    "command_line": command_line,
    "experiments": experiments,
    "gallery": gallery,
    "howtos": howtos,
    "measured": measured,
}
