"""Follow the text of a how-to: its code blocks as files and commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from typer.testing import CliRunner, Result

from mrict_core import cli
from mrict_core.paths import ROOT

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# ([\w./-]+\.\w+)\n")  # a block for a file begins with its path


class Howto:
    """The code of docs/howto/<name>.md, in the order of the text."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / "docs" / "howto" / f"{name}.md"
        self.found = BLOCK.findall(self.path.read_text(encoding="utf-8"))

    def blocks(self, language: str) -> list[str]:
        """Return the blocks of a language: "python", "yaml", "bash"."""
        return [block for found, block in self.found if found == language]

    def files(self) -> dict[str, str]:
        """Return {path: content} of the blocks whose first line is a comment with a path."""
        named = ((NAMED.match(block), block) for _, block in self.found)
        return {match[1]: block for match, block in named if match}

    def file(self, path: str) -> str:
        """Return the block that stands for a file."""
        return self.files()[path]

    def write(self, folder: Path) -> list[Path]:
        """Write every block that stands for a file below `folder`; return the paths."""
        written = []
        for name, content in self.files().items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            written.append(path)
        return written

    def commands(self) -> list[list[str]]:
        """Return the commands of the bash blocks, each as its words."""
        lines = "\n".join(self.blocks("bash")).replace("\\\n", " ").splitlines()
        return [shlex.split(line) for line in lines if line.strip() and not line.startswith("#")]


def run(command: list[str], *more: str) -> Result:
    """Run `python -m mrict_core …` in this process, with more arguments; it must end with status 0."""
    assert command[:3] == ["python", "-m", "mrict_core"], command
    result = CliRunner().invoke(cli.app, [*command[3:], *more])
    assert result.exit_code == 0, f"{' '.join(command)}: {result.output} {result.exception!r}"
    return result
