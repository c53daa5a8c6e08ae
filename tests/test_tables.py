"""A user's csv: as spreadsheets write it, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrict_core.data.case_csv import read_rows
from mrict_core.errors import MrictError

ROWS = [(2, {"case": "p1", "input": "a b.nii.gz"}), (3, {"case": "p2", "input": "c.nii.gz"})]
READ = {
    "commas": b"case,input\np1,a b.nii.gz\np2,c.nii.gz\n",
    "semicolons": b"case;input\np1;a b.nii.gz\np2;c.nii.gz\n",
    "tabs": b"case\tinput\np1\ta b.nii.gz\np2\tc.nii.gz\n",
    "spaces and capitals": b" Case , INPUT\n p1 , a b.nii.gz \np2,c.nii.gz\n",
    "byte-order mark and Windows' line ends": b"\xef\xbb\xbfcase,input\r\np1,a b.nii.gz\r\np2,c.nii.gz\r\n",
    "UTF-16": "case\tinput\np1\ta b.nii.gz\np2\tc.nii.gz\n".encode("utf-16"),
    "quotation marks": b'"case";"input"\n"p1";"a b.nii.gz"\n"p2";"c.nii.gz"\n',
    "empty columns at the end": b"case;input;;\np1;a b.nii.gz;;\np2;c.nii.gz;;\n",
    "empty lines at the end": b"case,input\np1,a b.nii.gz\np2,c.nii.gz\n,\n\n",
}
REFUSED = {
    "no such column": (b"case,file\np1,a\n", r"holds case, file; expected the columns case, input .* add input"),
    "a column twice": (b"case,input,Input\np1,a,b\n", "the column input more than once"),
    "no row": (b"case,input\n", "holds no row"),
    "nothing": (b"", "holds nothing"),
    "a comma in a name": (b"case,input\np1,a,b.nii.gz\n", "line 2 has 3 cells for 2 columns"),
    "another encoding": ("case,input\np1,Müller\n".encode("latin-1"), "not a readable csv"),
    "an open quotation mark": (b'case,input\np1,"a\n', "not a readable csv"),
    "no text": (bytes(range(256)), "not a readable csv"),
}


@pytest.mark.parametrize("kind", READ)
def test_a_csv_is_read_as_spreadsheets_write_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cases.csv"
    path.write_bytes(READ[kind])
    assert read_rows(path, ("case", "input")) == ROWS


def test_short_rows_have_empty_cells_and_names_may_hold_the_other_separator(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text("input;output\na,b,c.nii.gz\n")
    assert read_rows(path, ("input",)) == [(2, {"input": "a,b,c.nii.gz", "output": ""})]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_one_line_that_names_the_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cases.csv"
    content, message = REFUSED[kind]
    path.write_bytes(content)
    with pytest.raises(MrictError, match=message) as caught:
        read_rows(path, ("case", "input"))
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(MrictError, match=r"none\.csv: cannot be read \(No such file"):
        read_rows(tmp_path / "none.csv", ("input",))
