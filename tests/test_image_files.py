"""Image files, format by format: damage, headers that contradict themselves or say nothing, and where voxels lie."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import os
import re
import resource
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import write_patient
from geometry import CODES, SHAPE, affines, itk_affine, nifti_with_forms, placed_by_itk
from hypothesis import given, settings
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner, Result

from mrict_core import cli
from mrict_core.data.cache.store import SliceStore
from mrict_core.data.images import grids, streams
from mrict_core.data.images.resample import is_sheared, itk_image, resample_to
from mrict_core.data.images.volumes import Volume, hash_image, load_volume, read_geometry, save_nifti
from mrict_core.errors import MrictError, UnavailableError
from mrict_core.evaluation.cohort_table import cohort_table
from mrict_core.inference.output_files import write_ct
from mrict_core.paths import workspace

ARRAY = np.random.RandomState(0).randint(-1000, 2000, (24, 20, 12)).astype(np.int16)
RAW = np.ascontiguousarray(ARRAY.T).tobytes()
META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 1 1 2
DimSize = 24 20 12
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
NRRD = """NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 24 20 12
space directions: (1,0,0) (0,1,0) (0,0,2)
endian: little
encoding: raw
space origin: (0,0,0)
"""
VECTORS = "(1,0,0) (0,1,0) (0,0,2)"
WIDER = {"TransformMatrix": "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1"}
no_shrink = settings(deadline=None, max_examples=40)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


def image(array: np.ndarray = ARRAY) -> sitk.Image:
    made = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    made.SetSpacing((1.0, 1.0, 2.0))
    return made


def meta(path: Path, data: bytes = RAW, **fields: str) -> Path:
    """Write an MHA (or MHD) with these fields changed; "" leaves one out."""
    lines = dict(line.split(" = ") for line in META.splitlines())
    end = {"ElementDataFile": fields.pop("ElementDataFile", "LOCAL")}
    kept = {name: value for name, value in (lines | fields).items() if value and name != "ElementDataFile"} | end
    path.write_bytes("".join(f"{name} = {value}\n" for name, value in kept.items()).encode() + data)
    return path


def nrrd(path: Path, data: bytes = RAW, drop: str = "", **fields: str) -> Path:
    """Write an NRRD with these fields changed (`_` stands for a space), or without those that `drop` names."""
    lines = dict(line.split(": ", 1) for line in NRRD.splitlines()[1:])
    lines |= {name.replace("_", " "): value for name, value in fields.items()}
    text = "".join(f"{name}: {value}\n" for name, value in lines.items() if name not in drop.split(","))
    path.write_bytes(f"NRRD0004\n{text}\n".encode() + data)
    return path


def nhdr(path: Path) -> Path:
    (path.parent / "voxels.raw.gz").write_bytes(gzip.compress(RAW))
    return nrrd(path, b"", data_file="voxels.raw.gz", encoding="gzip")


def by_itk(path: Path, compress: bool) -> Path:
    sitk.WriteImage(image(), str(path), compress)
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {  # name => writes a sound file; the voxels' own file may lie beside it
    "mr.nii": lambda p: by_itk(p, False),
    "mr.nii.gz": lambda p: by_itk(p, True),
    "nibabel.nii.gz": lambda p: save_nifti(p, ARRAY, np.diag([-1, -1, 2, 1]), dtype=np.int16),
    "mr.mha": lambda p: by_itk(p, True),
    "raw.mha": lambda p: by_itk(p, False),
    "gzip.mha": lambda p: meta(p, gzip.compress(RAW), CompressedData="True"),
    "mr.mhd": lambda p: by_itk(p, True),
    "raw.mhd": lambda p: by_itk(p, False),
    "mr.nrrd": lambda p: by_itk(p, True),
    "raw.nrrd": lambda p: by_itk(p, False),
    "bz2.nrrd": lambda p: nrrd(p, bz2.compress(RAW), encoding="bzip2"),
    "mr.nhdr": nhdr,
}
PACKED = [name for name in WRITERS if not name.startswith("raw") and name != "mr.nii"]


def voxels_of(path: Path) -> Path:
    """Return the file that holds the voxels."""
    return next((f for f in path.parent.iterdir() if f.suffix in (".raw", ".zraw", ".gz") and f != path), path)


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_reads_alike_and_silently(name: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = WRITERS[name](tmp_path / name)
    volume = load_volume(path)
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 2, 1]), atol=1e-6)
    assert volume.remarks == ()
    assert read_geometry(path)[0] == volume.shape
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", PACKED)
def test_any_flipped_bit_of_a_stream_is_found(name: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = WRITERS[name](tmp_path / name)
    file = voxels_of(path)
    sound, random = file.read_bytes(), np.random.RandomState(1)
    start = sound.find(b"\x1f\x8b") if b"\x1f\x8b" in sound[:4096] else max(sound.find(b"LOCAL\n") + 6, 0)
    start += 10 if sound[start : start + 2] == b"\x1f\x8b" else 0  # gzip's header says nothing of the voxels
    start = sound.find(b"BZh") if "bz2" in name else start
    places = [start, *random.randint(start, len(sound), 60), *range(len(sound) - 8, len(sound))]
    for place in places:
        bad = bytearray(sound)
        bad[place] ^= 1 << random.randint(8)
        file.write_bytes(bad)
        with pytest.raises(MrictError) as caught:
            load_volume(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert not isinstance(caught.value, UnavailableError)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("change", ["cut", "cut in the middle", "no byte", "appended"])
def test_streams_shorter_or_longer_than_the_header_says(change: str, name: str, tmp_path: Path) -> None:
    path = WRITERS[name](tmp_path / name)
    file = voxels_of(path)
    sound = file.read_bytes()
    cut = {"cut": sound[:-1], "cut in the middle": sound[: len(sound) // 2], "no byte": b"", "appended": sound + b"end"}
    file.write_bytes(cut[change])
    if (name, change) == ("bz2.nrrd", "appended"):  # bzip2's own readers pass over what follows the last stream
        assert load_volume(path).shape == ARRAY.shape
        return
    with pytest.raises(MrictError) as caught:
        load_volume(path)
    assert "\n" not in str(caught.value)


LONGER = RAW + RAW[:480]
LENGTHS = {  # sound streams of another length than the header's
    "short.mha": lambda p: meta(p, zlib.compress(RAW[:-2]), CompressedData="True"),
    "long.mha": lambda p: meta(p, zlib.compress(LONGER), CompressedData="True"),
    "short.nrrd": lambda p: nrrd(p, gzip.compress(RAW[:-2]), encoding="gzip"),
    "long.nrrd": lambda p: nrrd(p, gzip.compress(LONGER), encoding="gzip"),
    "short.nii.gz": lambda p: p.write_bytes(gzip.compress(nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes()[:-2])),
    "long.nii.gz": lambda p: p.write_bytes(gzip.compress(nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes() + RAW[:480])),
    "second member.nii.gz": lambda p: p.write_bytes(2 * gzip.compress(nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes())),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_whole_streams_of_another_length(name: str, tmp_path: Path) -> None:
    LENGTHS[name](tmp_path / name)
    with pytest.raises(MrictError, match="the header says") as caught:
        load_volume(tmp_path / name)
    assert not isinstance(caught.value, UnavailableError)


def test_members_and_padding_of_gzip_are_one_stream(tmp_path: Path) -> None:
    content = nib.Nifti1Image(ARRAY, np.diag([-1, -1, 2, 1])).to_bytes()
    parts = gzip.compress(content[:5000]) + gzip.compress(content[5000:]) + b"\0" * 512
    (tmp_path / "mr.nii.gz").write_bytes(parts)
    np.testing.assert_array_equal(load_volume(tmp_path / "mr.nii.gz").array, ARRAY)


def test_names_do_not_decide_whether_nifti_is_compressed(tmp_path: Path) -> None:
    content = nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes()
    (tmp_path / "plain.nii.gz").write_bytes(content)
    (tmp_path / "packed.nii").write_bytes(gzip.compress(content))
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(load_volume(path).array, ARRAY)


def test_byte_orders_types_and_offsets(tmp_path: Path) -> None:
    big = np.ascontiguousarray(ARRAY.T).astype(">i2").tobytes()
    (tmp_path / "skipped.raw").write_bytes(b"head" + RAW)
    files = [
        meta(tmp_path / "a.mha", big, BinaryDataByteOrderMSB="True"),
        nrrd(tmp_path / "a.nrrd", big, endian="big"),
        nrrd(tmp_path / "b.nrrd", gzip.compress(b"head" + RAW), encoding="gzip", byte_skip="4"),
        nrrd(tmp_path / "c.nrrd", b"", data_file="skipped.raw", byte_skip="-1"),
        nrrd(tmp_path / "c.nhdr", b"", data_file="skipped.raw", byte_skip="4"),
        meta(tmp_path / "c.mhd", b"", ElementDataFile="skipped.raw", HeaderSize="4"),
        meta(tmp_path / "d.mhd", b"", ElementDataFile="skipped.raw", HeaderSize="-1"),
        meta(tmp_path / "d.mha", RAW, ElementDataFile="LOCAL", Comment="a = b"),
        nrrd(tmp_path / "e.nrrd", sizes="24 20 12 1", dimension="4", space_directions=f"{VECTORS} none"),
        meta(tmp_path / "e.mha", NDims="4", DimSize="24 20 12 1", Offset="0 0 0 0", ElementSpacing="1 1 2 1", **WIDER),
    ]
    for path in files[:1] + files[1:2]:
        text, voxels = path.read_bytes()[: -len(big)], big
        lines = tmp_path / f"lines{path.suffix}"
        lines.write_bytes(text.replace(b"\n", b"\r\n") + voxels)
        files.append(lines)
    for path in files:
        np.testing.assert_array_equal(load_volume(path).array, ARRAY, err_msg=path.name)
    for kind in (np.uint8, np.int8, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64):
        array = (ARRAY % 100).astype(kind)
        for path in (tmp_path / "t.mha", tmp_path / "t.nrrd", tmp_path / "t.nii"):
            sitk.WriteImage(image(array), str(path))
            np.testing.assert_array_equal(load_volume(path).array, array, err_msg=f"{kind} {path.suffix}")


def test_scaling_of_nifti(tmp_path: Path) -> None:
    path = tmp_path / "mr.nii"
    for slope, inter, expected, remark in (
        (2.0, -5.0, ARRAY * 2.0 - 5, False),
        (0.0, 7.0, ARRAY, False),  # slope 0: as stored, says the standard
        (float("nan"), 0.0, ARRAY, True),
        (2.0, float("inf"), ARRAY, True),
    ):
        content = bytearray(nib.Nifti1Image(ARRAY, np.eye(4)).to_bytes())
        struct.pack_into("<2f", content, 112, slope, inter)
        path.write_bytes(content)
        volume = load_volume(path)
        np.testing.assert_array_equal(volume.array, expected)
        assert ["taken as stored" in text for text in volume.remarks] == [True] * remark


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no data file.mha": (lambda p: p.write_text(META.replace("ElementDataFile = LOCAL\n", "")), "no ElementDataFile"),
    "list.mha": (lambda p: meta(p, ElementDataFile="LIST"), "several files"),
    "pattern.mhd": (lambda p: meta(p, ElementDataFile="s%03d.raw 1 12 1"), "several files"),
    "list.nhdr": (lambda p: nrrd(p, data_file="LIST"), "several files"),
    "outside.mhd": (lambda p: meta(p, ElementDataFile="../x.raw"), "the header's own folder"),
    "absolute.nhdr": (lambda p: nrrd(p, data_file="/etc/passwd"), "the header's own folder"),
    "away.mhd": (lambda p: meta(p, b"", ElementDataFile="x.raw"), r"x\.raw"),
    "away.nhdr": (lambda p: nrrd(p, b"", data_file="x.raw"), r"x\.raw"),
    "text.mha": (lambda p: meta(p, BinaryData="False"), "written as text"),
    "channels.mha": (lambda p: meta(p, ElementNumberOfChannels="3"), "one number per voxel"),
    "type.mha": (lambda p: meta(p, ElementType="MET_STRING"), "ElementType"),
    "2-D.mha": (lambda p: meta(p, NDims="2", DimSize="24 20"), "2-D image"),
    "dimensions.mha": (lambda p: meta(p, NDims="4"), "DimSize"),
    "spacing.mha": (lambda p: meta(p, ElementSpacing="-1 1 2"), "sizes above 0"),
    "numbers.mha": (lambda p: meta(p, Offset="0 0 a"), "Offset is '0 0 a'"),
    "matrix.mha": (lambda p: meta(p, TransformMatrix="1 0 0 0 1 0 0 0 0"), "not invertible"),
    "metres.mha": (lambda p: meta(p, ElementSpacing="0.001 0.001 0.002"), "units"),
    "twice.mha": (lambda p: p.write_text(META.replace("Offset", "Offset = 1 1 1\nOffset")), "is both"),
    "no magic.nrrd": (lambda p: p.write_bytes(b"NRRX" + RAW), "does not begin"),
    "text.nrrd": (lambda p: nrrd(p, encoding="ascii"), "encoding 'ascii'"),
    "endian.nrrd": (lambda p: nrrd(p, drop="endian"), "no endian"),
    "kinds.nrrd": (lambda p: nrrd(p, kinds="vector domain domain"), "one number per voxel"),
    "type.nrrd": (lambda p: nrrd(p, type="block"), "its type is"),
    "twice.nrrd": (lambda p: nrrd(p, Type="float"), "twice"),
    "vectors.nrrd": (lambda p: nrrd(p, space_directions="none (1,0,0) (0,1,0)"), "three vectors"),
    "spacing.nrrd": (lambda p: nrrd(p, drop="space,space directions,space origin", spacings="1 -1 2"), "above 0"),
    "no end.nrrd": (lambda p: p.write_text(NRRD), "no empty line"),
}


@pytest.mark.parametrize("offset", [252, 254])
def test_a_form_code_that_nifti_does_not_know_is_refused(offset: int, tmp_path: Path) -> None:
    """The qform's and the sform's: ITK takes such a form, nibabel does not."""
    (tmp_path / "code.nii").write_bytes(struck(PLAIN, offset, "h", 9))
    with pytest.raises(MrictError, match=r"code\.nii: its [qs]form_code is 9; expected 0 to 5"):
        load_volume(tmp_path / "code.nii")


@pytest.mark.parametrize("name", REFUSED)
def test_headers_that_describe_no_volume(name: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    write, message = REFUSED[name]
    write(tmp_path / name)
    for read in (read_geometry, load_volume):
        with pytest.raises(MrictError, match=message) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert capfd.readouterr() == ("", "")


def struck(content: bytes, offset: int, code: str, *values: float) -> bytes:
    changed = bytearray(content)
    struct.pack_into(f"<{code}", changed, offset, *values)
    return bytes(changed)


A = np.diag([-1.0, -1.0, 2.0, 1.0])
TEN = A.copy()
TEN[0, 3] += 10
SHEARED = A.copy()
SHEARED[0, 1] = 0.3
PLAIN = nib.Nifti1Image(ARRAY, A).to_bytes()
REMARKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "forms.nii": (lambda p: nifti_with_forms(p, TEN, 1, A, 2), "up to 10 mm apart; taken: the qform"),
    "scanner.nii": (lambda p: nifti_with_forms(p, TEN, 2, A, 1), "up to 10 mm apart; taken: the sform"),
    "pixdim.nii": (lambda p: nifti_with_forms(p, None, 0, A, 1, (0.5, 0.5, 2)), "1 x 1 x 2 mm in its sform and 0.5"),
    "no form.nii": (lambda p: nifti_with_forms(p, None, 0, None, 0, (1, 1, 2)), "no orientation"),
    "metres.nii": (lambda p: nifti_with_forms(p, A / 1e3 + 0, 1, A / 1e3, 1, (1e-3, 1e-3, 2e-3), "meter"), "in metres"),
    "negative.nii": (lambda p: p.write_bytes(struck(PLAIN, 80, "3f", -1, 1, 2)), "pixdim of -1 x 1 x 2"),
    "no number.nii": (lambda p: p.write_bytes(struck(PLAIN, 80, "f", np.nan)), "pixdim of nan"),
    "sheared.nii": (lambda p: nifti_with_forms(p, None, 0, SHEARED, 1, (1, 1.044, 2)), "not at right angles"),
    "matrix.mha": (lambda p: meta(p, TransformMatrix=""), "no orientation"),
    "nothing.mha": (lambda p: meta(p, TransformMatrix="", Offset="", ElementSpacing=""), "no voxel size and no pos"),
    "turned.mha": (lambda p: meta(p, AnatomicalOrientation="LPI"), "AnatomicalOrientation LPI"),
    "rounded.mha": (lambda p: meta(p, TransformMatrix="0.7 0.7 0 -0.7 0.7 0 0 0 1"), "not of length 1"),
    "sheared.mha": (lambda p: meta(p, TransformMatrix="1 0 0 0.1 0.995 0 0 0 1"), "not at right angles"),
    "cm.mha": (lambda p: meta(p, DistanceUnits="cm"), "DistanceUnits cm"),
    "scaled.mha": (lambda p: meta(p, ElementToIntensityFunctionSlope="2"), "taken as stored"),
    "nospace.nrrd": (lambda p: nrrd(p, drop="space,space directions,space origin", spacings="1 1 2"), "no orientation"),
    "scanner.nrrd": (lambda p: nrrd(p, space="scanner-xyz"), "its space is 'scanner-xyz'"),
    "hand.nrrd": (
        lambda p: p.write_bytes(nrrd(p).read_bytes().replace(b"space: left-posterior-superior", b"space dimension: 3")),
        "no or",
    ),
    "origin.nrrd": (lambda p: nrrd(p, drop="space origin"), "no position"),
    "one axis in cm.nrrd": (lambda p: nrrd(p, space_units='"mm" "mm" "cm"'), "its unit 'cm'"),
    "cm.nrrd": (lambda p: nrrd(p, space_units='"cm" "cm" "cm"'), "its unit 'cm'"),
}


@pytest.mark.parametrize("name", REMARKS)
def test_headers_that_contradict_themselves_or_say_nothing(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    write, text = REMARKS[name]
    write(tmp_path / name)
    volume = load_volume(tmp_path / name)
    assert [text in remark for remark in volume.remarks].count(True) == 1, volume.remarks
    assert all("\n" not in remark and name not in remark for remark in volume.remarks)
    assert capfd.readouterr() == ("", "")
    if "pixdim of" in text or name == "sheared.nii":  # ITK turns the first round, refuses the second
        return
    theirs = placed_by_itk(tmp_path / name)
    assert grids.is_same(volume.shape, volume.affine, volume.shape, theirs)


def test_the_distance_is_that_of_the_readings(tmp_path: Path) -> None:
    nifti_with_forms(tmp_path / "mr.nii", TEN, 1, A, 2, array=ARRAY)
    meta(
        tmp_path / "mr.mha", AnatomicalOrientation="RAS"
    )  # the third axis the other way round: 11 steps of 2 mm, twice
    for path, gap in ((tmp_path / "mr.nii", 10), (tmp_path / "mr.mha", 44)):
        (remark,) = load_volume(path).remarks
        assert f"up to {gap} mm apart" in remark


@no_shrink
@given(affine=affines(), other=affines(), q_code=CODES, s_code=CODES)
def test_nifti_lies_where_itk_puts_it(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray, other: np.ndarray, q_code: int, s_code: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "forms.nii"
    for sform in (affine, other):
        nifti_with_forms(path, affine, q_code, sform, s_code)
        volume = load_volume(path)
        assert grids.is_same(SHAPE, volume.affine, SHAPE, placed_by_itk(path)), (q_code, s_code)
        if sform is affine and q_code + s_code:
            assert volume.remarks == ()


@no_shrink
@given(affine=affines())
def test_every_reader_puts_what_is_written_at_one_place(
    tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray
) -> None:
    folder = tmp_path_factory.getbasetemp()
    hu = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    volume = Volume(hu, affine, Path("mr.nii.gz"))
    for suffix in (".nii", ".nii.gz", ".mha", ".nrrd"):
        path = write_ct(folder / f"ct{suffix}", hu, volume)
        found = load_volume(path)
        assert found.remarks == ()
        np.testing.assert_array_equal(found.array, hu)
        places = [found.affine, placed_by_itk(path)] + ([nib.load(path).affine] if ".nii" in suffix else [])
        for place in places:
            assert grids.corner_gap_mm(place, affine, SHAPE) < 2e-3
        again = write_ct(folder / f"again{suffix}", hu, found)  # on a grid as read from that file
        assert grids.corner_gap_mm(placed_by_itk(again), placed_by_itk(path), SHAPE) < 1e-9
    saved = save_nifti(folder / "saved.nii", hu, affine)
    assert grids.corner_gap_mm(placed_by_itk(saved), nib.load(saved).affine, SHAPE) < 2e-3


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_a_ct_lies_where_the_remark_says(suffix: str, tmp_path: Path) -> None:
    nifti_with_forms(tmp_path / "mr.nii", TEN, 1, A, 2)
    mr = load_volume(tmp_path / "mr.nii")
    path = write_ct(tmp_path / f"ct{suffix}", mr.array, mr)
    assert grids.corner_gap_mm(placed_by_itk(path), TEN, mr.shape) < 1e-6
    assert grids.corner_gap_mm(load_volume(path).affine, mr.affine, mr.shape) < 1e-6


def test_digits_of_rounded_cosines_are_kept(tmp_path: Path) -> None:
    matrix = np.round(Rotation.from_euler("xyz", (20, 30, 40), degrees=True).as_matrix(), 4)
    meta(tmp_path / "mr.mha", TransformMatrix=" ".join(map(str, matrix.ravel())))
    mr = load_volume(tmp_path / "mr.mha")
    assert (mr.remarks, is_sheared(mr)) == ((), False)
    for suffix in (".mha", ".nrrd"):
        path = write_ct(tmp_path / f"ct{suffix}", mr.array, mr)
        assert grids.corner_gap_mm(placed_by_itk(path), mr.affine, mr.shape) < 1e-9
    moved = resample_to(mr, Volume(mr.array, A, Path("like.nii")))
    assert moved.shape == mr.shape
    assert itk_affine(itk_image(mr)) == pytest.approx(mr.affine)


GRID = np.diag([-0.9765625, -0.9765625, 3.0, 1.0])
GRID[:3, 3] = 124.51171875, 124.51171875, -60
TURNED = Rotation.from_euler("xyz", (11, 7, -5), degrees=True).as_matrix()
WIDE = (256, 256, 24)


def changed(how: Callable[[np.ndarray], object], turned: bool = False) -> tuple[np.ndarray, np.ndarray]:
    ours = GRID.copy()
    if turned:
        ours[:3, :3] = TURNED @ ours[:3, :3]
    theirs = ours.copy()
    how(theirs)
    return ours, theirs


def rounded(digits: int) -> Callable[[np.ndarray], object]:
    return lambda a: np.round(a, digits, out=a)


def shifted(voxels: float, axis: int) -> Callable[[np.ndarray], object]:
    return lambda a: a.__setitem__((slice(3), 3), a[:3, 3] + voxels * a[:3, axis])


SAME = {
    "equal": changed(lambda a: None),
    "float32": changed(lambda a: a.__setitem__(slice(None), a.astype(np.float32)), True),
    "four decimals": changed(rounded(4)),
    "five decimals, oblique": changed(rounded(5), True),
    "a hundredth along 0": changed(shifted(0.01, 0)),
    "a hundredth along 2": changed(shifted(0.01, 2), True),
}
OTHER = {
    "two decimals": changed(rounded(2)),
    "half a voxel along 0": changed(shifted(0.5, 0)),
    "half a voxel along 2": changed(shifted(-0.5, 2), True),
    "a tenth": changed(shifted(0.1, 1), True),
    "another size": changed(lambda a: a.__setitem__((slice(3), 0), 1.001 * a[:3, 0])),
    "turned a little": changed(lambda a: a.__setitem__((slice(3), slice(3)), TURNED @ a[:3, :3])),
}


@pytest.mark.parametrize("case", SAME | OTHER)
def test_one_tolerance_decides_what_is_one_grid(case: str) -> None:
    ours, theirs = (SAME | OTHER)[case]
    pair = {"mr": (WIDE, ours, Path("mr.nii.gz")), "mask": (WIDE, theirs, Path("p/mask.nii.gz"))}
    assert grids.is_same(WIDE, ours, WIDE, theirs) == (case in SAME)
    if case in SAME:
        grids.check_same_grid(pair)
        return
    with pytest.raises(MrictError, match="of a voxel\\) apart") as caught:
        grids.check_same_grid(pair)
    theirs_text, ours_text = re.match(
        r".*mask has (.*), mr \(mr\.nii\.gz\) has (.*): up to", str(caught.value)
    ).groups()
    assert theirs_text != ours_text


@no_shrink
@given(affine=affines(), other=affines())
def test_two_grids_never_read_alike(affine: np.ndarray, other: np.ndarray) -> None:
    for theirs in (other, affine + (other - affine) * 1e-3, affine + (other - affine) * 1e-6):
        ours_text, theirs_text, apart = grids.difference(WIDE, affine, WIDE, theirs)
        assert ours_text != theirs_text or np.array_equal(affine, theirs)
        assert apart.endswith("apart")


def bomb(path: Path, shape: tuple[int, ...], content: bytes) -> Path:
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = 352
    path.write_bytes(gzip.compress(header.binaryblock + b"\0" * 4 + content, 1))
    return path


def peak_of(call: Callable[[], object]) -> int:
    """Return how many bytes a call, which raises, takes at most."""
    tracemalloc.start()
    try:
        with pytest.raises(MrictError, match="the header says"):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_is_never_unpacked_beyond_its_header(tmp_path: Path) -> None:
    zeros = b"\0" * 100_000_000
    path = bomb(tmp_path / "mr.nii.gz", (30, 30, 30), zeros)
    meta(tmp_path / "mr.mha", zlib.compress(zeros, 1), CompressedData="True")
    nrrd(tmp_path / "mr.nrrd", gzip.compress(zeros, 1), encoding="gzip")
    nrrd(tmp_path / "bz2.nrrd", bz2.compress(zeros, 1), encoding="bzip2")
    for path in tmp_path.iterdir():
        assert peak_of(lambda path=path: load_volume(path)) < 12_000_000


def test_one_copy_of_the_voxels_is_held(tmp_path: Path) -> None:
    array = np.zeros((200, 200, 200), np.int16)
    save_nifti(tmp_path / "mr.nii.gz", array, A, dtype=np.int16)
    sitk.WriteImage(image(array), str(tmp_path / "mr.mha"), True)
    for path in tmp_path.iterdir():
        tracemalloc.start()
        load_volume(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * array.size + 12_000_000


def test_a_small_file_cannot_hold_many_voxels(tmp_path: Path) -> None:
    path = bomb(tmp_path / "mr.nii.gz", (2000, 2000, 2000), b"\0" * 1000)
    with pytest.raises(MrictError, match="cannot hold the 8000000000") as caught:
        load_volume(path)
    assert not isinstance(caught.value, UnavailableError)


def test_too_little_memory_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = WRITERS["mr.nii.gz"](tmp_path / "mr.nii.gz")
    monkeypatch.setattr("mrict_core.machine.free_memory", lambda: 1_000_000)
    with pytest.raises(UnavailableError, match=r"needs 0\.0168 GB of memory, 0\.001 GB are free"):
        load_volume(path)


def test_a_limit_of_memory_says_so(tmp_path: Path) -> None:
    header = META.replace("24 20 12", "4000 4000 1000").replace("SHORT", "UCHAR")
    path = tmp_path / "mr.mha"
    path.write_text(header)
    os.truncate(path, len(header) + 16_000_000_000)  # a file with holes: it takes no room
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (20_000_000_000, before[1]))
    try:
        with pytest.raises(UnavailableError, match="needs 64 GB of memory"):
            load_volume(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_faults_that_say_nothing_about_the_content(tmp_path: Path) -> None:
    path = WRITERS["mr.mhd"](tmp_path / "mr.mhd")
    voxels_of(path).unlink()
    with pytest.raises(UnavailableError, match=r"mr\.mhd: cannot be read \(No such file.*mr\.zraw"):
        load_volume(path)
    path.unlink()
    with pytest.raises(UnavailableError, match="no such file"):
        load_volume(path)
    folder = tmp_path / "folder.nii.gz"
    folder.mkdir()
    with pytest.raises(UnavailableError):
        load_volume(folder)
    for error in (OSError(5, "Input/output error"), OSError(24, "Too many open files"), MemoryError()):
        with pytest.raises(UnavailableError, match=r"mr\.mhd: .*run again"), streams.reading(path):
            raise error


def test_too_many_open_files(tmp_path: Path) -> None:
    path = WRITERS["mr.nii.gz"](tmp_path / "mr.nii.gz")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(UnavailableError, match="Too many open files"):
            load_volume(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_hash_of_an_image_covers_its_voxels(tmp_path: Path) -> None:
    path = WRITERS["raw.mhd"](tmp_path / "mr.mhd")
    before = hash_image(path)
    assert hash_image(path) == before
    voxels_of(path).write_bytes(RAW[::-1])
    assert hash_image(path) != before


def test_nothing_of_a_header_makes_a_traceback(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    random = np.random.RandomState(3)
    for name in ("mr.nii", "raw.mha", "raw.nrrd", "mr.nrrd"):
        sound = WRITERS[name](tmp_path / name).read_bytes()
        for _ in range(150):
            bad = bytearray(sound)
            bad[random.randint(min(400, len(sound) - len(RAW) if "raw" in name else 340))] ^= 1 << random.randint(8)
            (tmp_path / name).write_bytes(bad)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with contextlib.suppress(MrictError):
                    assert load_volume(tmp_path / name).array.size
    assert capfd.readouterr() == ("", "")


def test_nan_around_the_image_is_background_and_inside_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "mr.nii.gz"
    for air, taken in ((12, 12), (700, 0)):  # dark beside the padding; and bright, so that it tells nothing
        array = np.full(ARRAY.shape, 900, np.float32)
        array[4:8] = array[:, :, 6:] = air
        array[:4] = array[:, :, 10:] = np.nan
        array[12, 12, 3] = 2
        save_nifti(path, array, A)
        volume = load_volume(path)
        text = f"{np.isnan(array).sum()} voxels on its border are NaN: taken as background ({taken})"
        assert volume.notes == (text,)
        np.testing.assert_array_equal(volume.array, np.where(np.isnan(array), taken, array))
    for hole in (np.nan, np.inf):
        array[12, 10, 5] = hole
        save_nifti(path, array, A)
        with pytest.raises(MrictError, match="1 voxels are NaN or infinite"):
            load_volume(path)
    for fill in (np.nan, np.inf):
        save_nifti(path, np.full_like(array, fill), A)
        with pytest.raises(MrictError, match=f"{array.size} voxels are NaN or infinite"):
            load_volume(path)


def test_a_file_replaced_while_it_is_read_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = WRITERS["mr.mha"](tmp_path / "mr.mha")
    blocks = streams._blocks

    def replaced(*arguments: object) -> object:
        WRITERS["raw.mha"](path)
        return blocks(*arguments)

    monkeypatch.setattr(streams, "_blocks", replaced)
    with pytest.raises(UnavailableError, match="was replaced or removed while it was read"):
        load_volume(path)


def test_every_command_says_what_a_header_left_open(tmp_path: Path, checkpoints: Path) -> None:
    for number in range(1, 4):
        write_patient(tmp_path / "cohort" / f"1BA00{number}", seed=number)
    folder = tmp_path / "cohort/1BA002"
    for role in ("mr", "ct", "mask"):
        image = nib.load(folder / f"{role}.nii.gz")
        affine, voxels = image.affine.copy(), np.asarray(image.dataobj)
        affine[0, 3] += 10
        path = folder / f"{role}.nii.gz"
        nifti_with_forms(path, affine, 1, image.affine, 2, array=voxels)
    text = "up to 10 mm apart; taken: the qform"
    arguments = ["--profile", "smoke", "--data", str(tmp_path / "cohort")]
    found = invoke("preprocess", *arguments)
    assert (found.exit_code, found.output.count(text)) == (0, 3), found.output
    assert re.search(rf"1BA002: mr: its header .*{text}", found.output)
    store = SliceStore(workspace("smoke", str(tmp_path / "cohort")).store)
    assert text in dict(cohort_table(store).set_index("patient")["warnings"])["1BA002"]
    again = invoke("preprocess", *arguments)  # kept, and said again
    assert again.output.count(text) == 3
    mr, ct, mask = (str(folder / f"{role}.nii.gz") for role in ("mr", "ct", "mask"))
    score = ["score", "--ct", ct, "--sct", ct.replace("1BA002", "1BA001"), "--mask", mask, "--resample"]
    scored = invoke(*score, "--json")
    assert [text in warning for warning in json.loads(scored.output)["warnings"]].count(True) == 2
    made = ["synthesize", mr, "-o", str(tmp_path / "sct.nii.gz"), "--model", str(checkpoints / "a.pt")]
    assert text in invoke(*made).output
    assert any(text in warning for warning in json.loads((tmp_path / "sct.json").read_text())["warnings"])
    for command in (["preprocess", *arguments], score, [*made, "--overwrite"]):
        refused = invoke(*command, "--strict")
        assert refused.exit_code == 1
        assert re.search(f"{text}.*refused by --strict", str(refused.exception)), refused.exception
