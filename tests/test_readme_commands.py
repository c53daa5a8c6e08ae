"""README.md: every command is run, every number is one that a command of the suite has printed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess

import pytest
from test_cli import ok

from benchmarks.gate import phantom
from mrict_core.data.images.volumes import save_nifti
from mrict_core.data.phantom import PhantomSpec
from mrict_core.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    command
    for block in BLOCKS
    for line in block.splitlines()
    if line[0] != "#" and (command := line.partition(" #")[0].strip())
]
SHORT = {
    "./run_all.sh": ["--profile", "smoke", "--only", "00"],
    "./run_tests.sh": ["--collect-only", "-q", __file__],
}
FAST = {  # appended: seconds instead of minutes
    "dose": ["--modality", "protons", "--targets", "1", "--grid-mm", "6"],
    "synthesize": ["--resample-to-mm", "0"],  # test_starter.py resamples
}
DEMO = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def places(cohort, tmp_path_factory) -> dict[str, str]:
    """Files for the names in the README: an MR, a folder of MRs, of CTs, and of pairs."""
    root = tmp_path_factory.mktemp("readme")
    files = {"my_t1": "mr", "FOLDER/one_mr": "mr", "CT/one/ct": "ct", "CT/one/mask": "mask"}
    files |= {"SCANS/p1/mr": "mr", "SCANS/p1/ct": "ct"}
    for name, role in files.items():
        image = phantom("1BA001", 7, PhantomSpec("brain", 6.0, 6.0), role)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        save_nifti(root / f"{name}.nii.gz", image.array, image.affine)
    return {"my_t1.nii.gz": "my_t1.nii.gz", "/path/to/pairs": str(cohort), "": str(root)}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs(command, places, monkeypatch):
    words = [places.get(word, word) for word in shlex.split(command)]
    monkeypatch.chdir(places[""])
    if words[:3] == ["python", "-m", "mrict_core"]:
        monkeypatch.setenv("MRICT_CHECKPOINTS", str(ROOT / "checkpoints"))
        ok(*words[3:], *FAST.get(words[3], []))
    elif words[0] == "source":
        assert (ROOT / words[1]).is_file() or not (ROOT / ".venv").is_dir()
    else:
        if not (ROOT / ".venv").is_dir():
            pytest.skip("no .venv in the checkout; ./run_all.sh --setup-only makes it")
        more = [] if "--setup-only" in words else SHORT[words[0]]
        done = subprocess.run([*words, *more], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------------------- numbers


def printed(row: str) -> list[float]:
    """Return error and bone Dice in the README's row that starts with a name."""
    (cells,) = [line.split("|")[3:5] for line in README.splitlines() if line.startswith(f"| {row}")]
    return [float(cell) for cell in cells if cell.strip()]


def of_starter(plane: str = "") -> list[float]:
    summary = json.loads((ROOT / "checkpoints" / "starter-brain" / "scores.json").read_text())["summary"]
    own = summary["planes"][plane] if plane else summary["all"]
    return [round(own["mae_hu"]["mean"], 1), round(own["dice_bone_250"]["mean"], 3)]


def of_head(case: str) -> list[float]:
    rows = json.loads((ROOT / "reports" / "benchmarks" / "starter.json").read_text())["rows"]
    return [round(row["mae_hu"], 1) for row in rows if row["case"] == case]


def of_equal_budgets() -> dict[str, float]:
    rows = json.loads((ROOT / "reports" / "benchmarks" / "quality.json").read_text())["rows"]
    return {row["case"]: round(row["mae_hu"], 1) for row in rows if row["data"] == "real heads, 20 CPU minutes"}


def of_demo(name: str) -> float:
    (row,) = [line for line in DEMO.splitlines() if f"| {name} |" in line]
    return float(row.split("|")[3].split()[0])


def test_the_starters_numbers_are_those_of_its_card():
    baseline = json.loads((ROOT / "checkpoints" / "starter-brain" / "scores.json").read_text())["baseline"]
    assert printed("**starter** (MK7, in git)") == of_starter()
    assert printed("the same, axial") == of_starter("axial")
    assert printed("water") == [round(baseline["mae_hu"], 1)]


def test_the_heads_numbers_are_those_of_the_benchmark():
    assert printed("**starter**, a whole head") == of_head("mean of the planes")
    assert f"water: {of_head('water')[0]}" in README


@pytest.mark.parametrize("name", ["mk7_0", "pix2pix_paper", "unet_l1"])
def test_the_numbers_of_equal_budgets_are_those_of_the_benchmark(name):
    said = re.search(rf"`{name}`(?: has)? (\d+\.\d)\b", README)
    assert float(said[1]) == of_equal_budgets()[name]


@pytest.mark.parametrize(("row", "name"), [("MK7 in the demo", "mk7_1"), ("`mk6_3_4`", "mk6_3_4")])
def test_the_demos_numbers_are_those_of_its_page(row, name):
    assert printed(row)[0] == of_demo(name)


def test_it_is_short():
    assert len(README.splitlines()) <= 120
