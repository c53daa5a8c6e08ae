"""Rules for notebooks: unrun sources, short cells, plain parameters for papermill, no definitions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml

from mrict_core.experiments import all_variants, get
from mrict_core.paths import ROOT
from mrict_core.suite.plan import NOTEBOOK_OF, PREPROCESS, notebook_file

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBERED = [path for path in PATHS if path.stem[:2].isdigit()]
PARAMS = sorted((ROOT / "params").glob("*.yaml"))
TITLES = {"practice_brain_example": "Practice", "your_data": "Your data"}  # of notebooks outside the suite's order
TYPES = {"str": str, "int": int, "float": float, "bool": bool}

every = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
numbered = pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def code(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def parameters(path: Path) -> dict[str, ast.AnnAssign]:
    (cell,) = (cell for cell in code(path) if "parameters" in tags(cell))
    return {node.target.id: node for node in ast.parse(cell.source).body}


def told_by(family: str) -> str:
    """Return the name of the notebook in the repository that tells a family's story."""
    return notebook_file(NOTEBOOK_OF[family]).stem


def test_the_suite_is_complete():
    assert {path.stem for path in NUMBERED} == {
        "00_preprocess_and_mask",
        "01_cyclegan_baseline",
        "02_pix2pix",
        "05_pix2pix_mk6",
        "06_mk7_regression",
        "07_mk8_volumes",
        "08_mk9_flow",
        "09_evaluation",
        "10_clinical_report",
        "11_synthesize",
        "12_dose",
    }
    assert [path.stem for path in PATHS if path not in NUMBERED] == list(TITLES)


@every
def test_is_valid_with_stable_ids(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    # Tools that make up an id at every save make eight hex digits; these are given by hand and stay.
    assert all(re.fullmatch(r"cell-\d\d[a-z]?", name) for name in ids)
    assert notebook.metadata.kernelspec.name == "python3"


@every
def test_is_kept_unrun(path):
    for cell in code(path):
        assert cell.outputs == [], cell.id
        assert cell.execution_count is None, cell.id
    assert not {"papermill", "widgets"} & set(read(path).metadata)
    assert all(set(cell.metadata) <= {"tags"} for cell in read(path).cells)


@every
def test_cells_are_short_and_define_nothing(path):
    cells = code(path)
    assert 10 <= len(cells) <= 16
    for cell in cells:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert 1 <= len(lines) <= 16, f"{cell.id}: {len(lines)} lines"
        nodes = list(ast.walk(ast.parse(cell.source)))  # a magic is no Python: parsing fails
        defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [node for node in nodes if isinstance(node, defined)], cell.id


@pytest.mark.parametrize("name", [p.stem for p in PATHS if p.stem[:2] not in ("00", "11")])
def test_asserts_are_of_our_own_making_and_say_what_broke(name):
    """Print, do not assert, what depends on the user's data (bone, centres, a range); give every assert a message."""
    (path,) = (path for path in PATHS if path.stem == name)
    checks = [n for cell in code(path) for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Assert)]
    assert all(node.msg is not None for node in checks)
    tested = " ".join(ast.unparse(node.test) for node in checks)
    assert not re.search(r"n_bone|4024|centre|notna|isfinite", tested)


@every
def test_nbval_knows_what_to_compare(path):
    for cell in code(path):
        allowed = {"parameters"}, {"nbval-ignore-output"}, {"nbval-check-output"}
        assert set(tags(cell)) in allowed, f"{cell.id}: {tags(cell)}"


@every
def test_parameters_are_one_cell_of_annotated_literals(path):
    assert sum("parameters" in tags(cell) for cell in read(path).cells) == 1
    assert "parameters" in tags(code(path)[0])
    for name, node in parameters(path).items():
        assert isinstance(node, ast.AnnAssign), name
        assert isinstance(node.value, ast.Constant), name
        assert type(node.value.value) is TYPES[node.annotation.id], name


@every
def test_first_cell_says_what_it_is(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    title = TITLES.get(path.stem, path.stem[:2])
    assert first.source.startswith(f"# {title} · ")
    wanted = ["Inputs", "Outputs", "Time"] + (["**Question.**"] if path in NUMBERED else [])
    assert [word for word in wanted if word not in first.source] == []


@every
def test_names_no_place_of_one_machine(path):
    for cell in code(path):
        texts = [n.value for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Constant)]
        texts = [text for text in texts if isinstance(text, str)]
        assert [t for t in texts if re.match(r"/|~|\.\.|[A-Za-z]:[\\/]", t)] == [], cell.id
    prose = "\n".join(cell.source for cell in read(path).cells)
    assert not re.search(r"(?<![\w.])/(home|work|root|tmp|usr|mnt|content|Users)/|\bDrive\b", prose)


@numbered
def test_takes_every_parameter_of_the_suite(path):
    known = papermill.inspect_notebook(str(path))
    suite = {"data_dir", "region", "protocol", "force"} | ({"variants"} if path.stem != PREPROCESS else set())
    assert suite <= set(known)
    assert known["force"]["default"] == "False"
    for file in PARAMS:
        for name, value in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            assert name in known, f"{file.name}: {name}"
            assert type(value) is TYPES[known[name]["inferred_type_name"]], f"{file.name}: {name}"


@numbered
def test_defaults_are_the_demo(path):
    defaults = {name: node.value.value for name, node in parameters(path).items()}
    assert (defaults["profile"], defaults["data_dir"], defaults["device"]) == ("demo", "", "cpu")
    for name in defaults.get("variants", "").split(","):
        if name:
            assert told_by(get(name).family) == path.stem


@pytest.mark.parametrize("family", sorted({v.family for v in all_variants()} & NOTEBOOK_OF.keys()))
def test_every_family_is_told_by_the_notebook_that_accepts_it(family):
    (path,) = (path for path in NUMBERED if path.stem == told_by(family))
    checks = [n for cell in code(path) for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Assert)]
    checks = [node for node in checks if "family" in ast.dump(node.test)]
    assert len(checks) == 1
    literals = {n.value for n in ast.walk(checks[0].test) if isinstance(n, ast.Constant)}
    assert family in literals
    assert {told_by(name) for name in literals} == {path.stem}


def copied_cells(paths: list[Path]) -> list[list[str]]:
    """Return the places of every code cell of more than three lines that several notebooks hold, byte for byte.

    Imports and parameters are alike by intent.
    """
    places: dict[str, list[str]] = {}
    for path in paths:
        for cell in code(path):
            lines = [line for line in cell.source.splitlines() if line.strip()]
            imports = isinstance(ast.parse(cell.source).body[0], ast.Import | ast.ImportFrom)
            if len(lines) > 3 and not imports and "parameters" not in tags(cell):
                places.setdefault(cell.source, []).append(f"{path.stem} {cell.id}")
    return [found for found in places.values() if len({place.split()[0] for place in found}) > 1]


def test_no_cell_is_told_twice():
    assert copied_cells(PATHS) == []


def test_a_copied_cell_is_found(tmp_path):
    for name, lines in (("a", 4), ("b", 4), ("c", 3)):
        source = "\n".join(f"print({k})" for k in range(lines))
        imports, given = (
            "import os\nimport re\nimport sys\nimport ast",
            "a: int = 1\nb: int = 2\nc: int = 3\nd: int = 4",
        )
        cells = [nbformat.v4.new_code_cell(text) for text in (given, imports, source)]
        cells[0].metadata["tags"] = ["parameters"]
        for number, cell in enumerate(cells):
            cell["id"] = f"cell-{number:02d}"
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    assert copied_cells(sorted(tmp_path.glob("*.ipynb"))) == [["a cell-02", "b cell-02"]]
