"""The page and the csv of pairs: order, pictures, choices that survive, and the buttons in a real browser."""

from __future__ import annotations

import csv
import os
import re
import shutil

import numpy as np
import pytest

from mrict_core.data.images.volumes import save_nifti
from mrict_core.data.pair_choices import read_choices
from mrict_core.doctor import CHROMIUM
from mrict_core.errors import MrictError
from mrict_core.files import read_json, write_json
from mrict_core.pairing.quality import MEASURES
from mrict_core.reporting.pair_page import CSV, write_pair_page

BROWSER = os.environ.get("MRICT_BROWSER") or next(filter(None, map(shutil.which, CHROMIUM)), None)
GOOD = {
    "offset_mm": 0.4,
    "offset_deg": 0.2,
    "mutual_information": 0.7,
    "body_dice": 0.98,
    "air_dice": None,
    "outline_mm": 1.2,
    "covered": 1.0,
    "mirror_gain": 0.6,
    "sharpness": 0.2,
}
PAIRS = {  # patient => region, verdict, reasons, measures
    "P01": ("brain", "good", [], {}),
    "P02": ("brain", "look at it", ["the CT fits better 4.0 mm away"], {"offset_mm": 4.0}),
    "P03": ("brain", "look at it", ["the CT fits better 9.0 mm away"], {"offset_mm": 9.0}),
    "P04": ("pelvis", "not a pair", ["the bodies overlap by a Dice of 0.40", "<b>b</b>"], {"body_dice": 0.4}),
}


def write_pair(folder, patient, region, verdict, reasons, changes):
    place = folder / "Task1" / region / patient
    ball = np.linalg.norm(np.indices((30, 36, 12)) - np.array([15, 18, 6])[:, None, None, None], axis=0) < 12
    affine = np.diag([-4.0, -4.0, 5.0, 1.0])
    rng = np.random.default_rng(0)
    save_nifti(place / "mr.nii.gz", ball * 300 + 10 * rng.random(ball.shape), affine, dtype=np.float32)
    save_nifti(place / "ct.nii.gz", np.where(ball, 40, -1000), affine, dtype=np.int16)
    save_nifti(place / "mask.nii.gz", ball, affine, dtype=np.uint8)
    quality = {"verdict": verdict, "reasons": reasons, **GOOD, **changes}
    record = {"patient": patient, "region": region, "transform": np.eye(4).tolist(), "quality": quality, "seconds": 1.0}
    write_json(place / "pair.json", record)
    return place


@pytest.fixture
def folder(tmp_path):
    for patient, pair in PAIRS.items():
        write_pair(tmp_path, patient, *pair)
    return tmp_path


def rows(folder):
    with open(folder / "pairs.csv", encoding="utf-8", newline="") as file:
        return {row["patient"]: row for row in csv.DictReader(file)}


def choose(folder, **uses):
    text = (folder / "pairs.csv").read_text(encoding="utf-8")
    for patient, use in uses.items():
        text = re.sub(rf"^({patient},\w+),\w*,[^,]*,", rf"\1,{use},seen,", text, flags=re.MULTILINE)
    (folder / "pairs.csv").write_text(text, encoding="utf-8")


def test_worst_first_with_reasons_and_pictures(folder):
    page = write_pair_page(folder)
    text = page.read_text(encoding="utf-8")
    assert page == folder / "pairs.html"
    assert re.findall(r"<h2>(\w+)", text) == ["P04", "P03", "P02", "P01"]
    assert "4.0 mm away" in text
    assert "<b>b</b>" not in text  # escaped
    pictures = [len(one) for one in re.findall(r"data:image/jpeg;base64,([^\"]+)", text)]
    assert len(pictures) == 4 * 12
    assert max(pictures) < 30_000
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)  # nothing outside the file


def test_csv_holds_every_measure_and_a_first_choice(folder):
    write_pair_page(folder)
    found = rows(folder)
    assert list(next(iter(found.values()))) == list(CSV)
    assert {patient: row["use"] for patient, row in found.items()} == {
        "P01": "yes",
        "P02": "yes",
        "P03": "yes",
        "P04": "no",
    }
    assert "Dice of 0.40" in found["P04"]["reason"]
    assert set(MEASURES) <= set(CSV)
    assert float(found["P03"]["offset_mm"]) == 9.0
    assert found["P01"]["air_dice"] == ""
    assert set(read_choices(folder / "pairs.csv", "brain")) == {"p01", "p02", "p03"}


def test_choices_stay_until_the_pair_changes(folder):
    write_pair_page(folder)
    choose(folder, P01="no", P02="no", P04="yes")
    record = read_json(folder / "Task1/brain/P01/pair.json")
    write_json(folder / "Task1/brain/P01/pair.json", record | {"seconds": 9.0})  # no other pair
    record = read_json(folder / "Task1/brain/P02/pair.json")
    write_json(folder / "Task1/brain/P02/pair.json", record | {"transform": (2 * np.eye(4)).tolist()})
    write_pair(folder, "P05", "brain", "good", [], {})
    write_pair_page(folder)
    found = rows(folder)
    assert {patient: (row["use"], row["reason"]) for patient, row in found.items()} == {
        "P01": ("no", "seen"),
        "P02": ("yes", "paired anew since use was no"),
        "P03": ("yes", ""),
        "P04": ("yes", "seen"),
        "P05": ("yes", ""),
    }


def test_choices_survive_a_spreadsheet_that_changes_names(tmp_path):
    write_pair(tmp_path, "001", "brain", "good", [], {})
    write_pair_page(tmp_path)
    assert not re.fullmatch(r"[\d.e]+", rows(tmp_path)["001"]["pair"])  # no number for any content
    text = (tmp_path / "pairs.csv").read_text(encoding="utf-8")
    (tmp_path / "pairs.csv").write_text(text.replace("001,brain,yes,", "1,brain,no,moved"), encoding="utf-8-sig")
    write_pair_page(tmp_path)
    assert (rows(tmp_path)["001"]["use"], rows(tmp_path)["001"]["reason"]) == ("no", "moved")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda place: (place / "pair.json").write_text("{"), "pair.json: not valid json"),
        (lambda place: write_json(place / "pair.json", {"patient": "P01"}), "pair.json: 'quality' is missing"),
        (lambda place: (place / "ct.nii.gz").unlink(), "ct.nii.gz is missing"),
        (lambda place: (place / "mr.nii.gz").write_bytes(b"no image"), "mr.nii.gz: not readable"),
        (lambda place: (place.parents[2] / "pairs.csv").write_text("patient,use\nP01,perhaps\n"), "expected yes or no"),
    ],
)
def test_damaged_input_is_one_line_and_leaves_the_old_page(folder, spoil, words, capfd):
    write_pair_page(folder)
    before = (folder / "pairs.html").read_bytes()
    spoil(folder / "Task1" / "brain" / "P01")
    with pytest.raises(MrictError) as raised:
        write_pair_page(folder)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert (folder / "pairs.html").read_bytes() == before


def test_a_folder_without_pairs(tmp_path):
    with pytest.raises(MrictError, match="pair scans into it first"):
        write_pair_page(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(BROWSER is None, reason="no Chromium found; install it, or set MRICT_BROWSER to its path")
def test_filter_and_download_in_a_browser(folder, tmp_path):
    from playwright.sync_api import sync_playwright

    page = write_pair_page(folder)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        heard, asked = [], []
        opened = browser.new_page(viewport={"width": 390, "height": 800})
        opened.on("console", lambda message: heard.append(message.text))
        opened.on("pageerror", lambda error: heard.append(str(error)))
        opened.on("request", lambda request: asked.append(request.url))
        opened.goto(page.as_uri())
        opened.wait_for_selector("html[data-ready=yes]")
        assert opened.evaluate("document.documentElement.scrollWidth") <= 390
        assert opened.inner_text("#count").startswith("3 of 4 used")
        opened.uncheck("input[name=verdict][value=good]")
        assert opened.locator("article:visible h2").all_inner_texts()[0].startswith("P04")
        assert opened.locator("article:visible").count() == 3
        second = opened.locator("article").nth(1)
        second.locator("input[value=no]").check()
        second.locator("input[type=text]").fill('moved, "by hand"')
        assert "2 of 4 used" in opened.inner_text("#count")
        with opened.expect_download() as saved:
            opened.click("#download")
        saved.value.save_as(folder / "pairs.csv")
        browser.close()
    assert heard == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    write_pair_page(folder)
    assert (rows(folder)["P03"]["use"], rows(folder)["P03"]["reason"]) == ("no", 'moved, "by hand"')
    assert rows(folder)["P02"]["use"] == "yes"
