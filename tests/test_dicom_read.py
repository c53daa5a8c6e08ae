"""DICOM series read as volumes: geometry, order, values, what is refused; pydicom's own files."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import new_uids, retag, write_enhanced, write_mr_series
from geometry import itk_affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, RLELossless
from pydicom.uid import SecondaryCaptureImageStorage as SECONDARY_CAPTURE
from scipy.spatial.transform import Rotation

from mrict_core.data.dicom import DicomVolume, is_dicom, list_series, read_series, series_below
from mrict_core.data.images.grids import corner_gap_mm
from mrict_core.errors import MrictError

PYDICOM = Path(pydicom.__file__).parent / "data" / "test_files"
PROPER = [
    np.array(m)
    for order in itertools.permutations(np.eye(3))
    for signs in itertools.product((1, -1), repeat=3)
    if np.linalg.det(m := np.array(order).T * signs) > 0
]


def stored(shape=(7, 5, 6), seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)


def grid(axes=None, spacing=(0.9, 1.1, 2.5), origin=(-31.5, 12.25, 40.0)) -> np.ndarray:
    """Return a right-handed RAS affine: as (column, row, slice) in LPS, slices along their normal."""
    affine = np.eye(4)
    affine[:3, :3] = (np.diag([-1.0, -1.0, 1.0]) if axes is None else axes) * spacing
    affine[:3, 3] = origin
    return affine


def sitk_volume(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return what SimpleITK's GDCM reads: array (columns, rows, slices) and RAS affine."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    return sitk.GetArrayFromImage(image).T, itk_affine(image)


def test_there_are_24_right_handed_axis_codes():
    assert len(PROPER) == 24  # the 24 left-handed ones are the same stacks counted from the other end


@settings(max_examples=30, deadline=None)
@given(
    axes=st.sampled_from(PROPER),
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
)
def test_any_orientation_spacing_and_size(tmp_path_factory, axes, angles, spacing, shape):
    folder = tmp_path_factory.mktemp("series")
    affine = grid(Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ axes, spacing)
    write_mr_series(folder, stored(shape), affine)
    volume = read_series(folder)
    np.testing.assert_array_equal(volume.array, stored(shape))
    assert volume.array.dtype == np.float32
    assert corner_gap_mm(volume.affine, affine, shape) < 1e-4


@pytest.mark.parametrize("angle", [0, 17.5])
def test_equals_what_simpleitk_reads(tmp_path, angle):
    affine = grid(Rotation.from_euler("xyz", (angle, 5, 0), degrees=True).as_matrix() @ np.diag([-1.0, -1.0, 1.0]))
    write_mr_series(tmp_path, stored(), affine, slope=lambda k: (2, -10))
    volume, (array, theirs) = read_series(tmp_path), sitk_volume(tmp_path)
    np.testing.assert_array_equal(volume.array, array)
    assert corner_gap_mm(volume.affine, theirs, volume.shape) < 1e-4


def test_rescaled_slice_by_slice(tmp_path):
    write_mr_series(tmp_path, stored(), grid(), slope=lambda k: (k + 0.5, -k))
    k = np.arange(6, dtype=np.float32)
    np.testing.assert_allclose(read_series(tmp_path).array, stored() * (k + 0.5) - k, rtol=1e-6)


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, RLELossless, JPEG2000Lossless])
def test_transfer_syntaxes(tmp_path, syntax):
    write_mr_series(tmp_path, stored((65, 49, 3)), grid(), syntax=syntax)
    assert pydicom.dcmread(next(tmp_path.iterdir())).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_series(tmp_path).array, stored((65, 49, 3)))


@pytest.mark.parametrize("kind", ["JPEGLosslessProcess14_1", "JPEGLosslessProcess14", "JPEGLSLossless"])
def test_lossless_jpeg_of_scanners(tmp_path, kind):
    import gdcm

    for file in write_mr_series(tmp_path, stored((65, 49, 3)), grid()):
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(file))
        assert reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, kind)))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(file))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        assert pydicom.dcmread(file).file_meta.TransferSyntaxUID.is_compressed
    np.testing.assert_array_equal(read_series(tmp_path).array, stored((65, 49, 3)))


def test_compression_that_cannot_be_decoded(tmp_path, monkeypatch):
    """Lossy JPEG of twelve bits, a real file, given a place in the patient."""
    file = Path(shutil.copy(PYDICOM / "JPGExtended.dcm", tmp_path))
    placed = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
    retag(file, PixelSpacing=[1, 1], SliceThickness=1, **placed)
    with pytest.raises(MrictError, match=r"as JPEG Extended .* cannot be decoded; .*; export it uncompressed$"):
        read_series(file, modality="")
    monkeypatch.setattr("mrict_core.data.dicom.read.DECODERS", ("no_such_decoder",))
    with pytest.raises(MrictError, match=r"pip install -r requirements\.txt, or export it uncompressed$"):
        read_series(file, modality="")


def test_files_without_suffix_or_preamble_in_subfolders(tmp_path):
    files = write_mr_series(tmp_path / "a" / "b", stored(), grid(), suffix="")
    files[2].write_bytes(files[2].read_bytes()[132:])
    (tmp_path / "a" / "notes.txt").write_text("not DICOM")
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, stored())
    assert volume.notes == ("skipped: not DICOM (1)",)


def test_enhanced_multi_frame_in_any_order_of_frames(tmp_path):
    def slope(k):
        return k + 1, -k

    write_enhanced(tmp_path / "multi", stored(), grid(), slope, order=[3, 0, 5, 1, 2, 4])
    k = np.arange(6)
    for path in (tmp_path, tmp_path / "multi"):
        volume = read_series(path)
        np.testing.assert_array_equal(volume.array, stored() * (k + 1.0) - k)
        assert corner_gap_mm(volume.affine, grid(), volume.shape) < 1e-6
    assert [f.index for f in volume.source.frames] == [1, 3, 4, 0, 5, 2]


def test_enhanced_equals_what_simpleitk_reads(tmp_path):
    file = write_enhanced(tmp_path / "multi.dcm", stored(), grid(), lambda k: (2, -5))
    volume, image = read_series(file), sitk.ReadImage(str(file))
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image).T)
    assert corner_gap_mm(volume.affine, itk_affine(image), volume.shape) < 1e-4


def test_one_slice_takes_its_thickness(tmp_path):
    (file,) = write_mr_series(tmp_path, stored((4, 4, 1)), grid())
    assert read_series(file).spacing_mm == pytest.approx((0.9, 1.1, 2.5))
    retag(file, SpacingBetweenSlices=None, SliceThickness=None)
    with pytest.raises(MrictError, match="one slice without SliceThickness"):
        read_series(file)


def test_series_of_a_folder_are_listed_and_chosen(tmp_path):
    uids = new_uids()
    write_mr_series(tmp_path / "mr", stored(), grid(), uids=uids)
    write_mr_series(tmp_path / "ct", stored(), grid(), Modality="CT")
    write_mr_series(tmp_path / "loc", stored(), grid(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for name in ("rtstruct.dcm", "test-SR.dcm"):
        shutil.copy(PYDICOM / name, tmp_path)
    first = read_series(tmp_path)
    assert first.source.study_uid == uids["StudyInstanceUID"]
    assert sum("CT, 6 images" in r for r in first.notes) == 1
    assert sum("MR localizer, 6 images" in r for r in first.notes) == 1
    assert "skipped: Comprehensive SR (1), RT Structure Set (1)" in first.notes
    write_mr_series(tmp_path / "other", stored(seed=1), grid(), SeriesNumber=9)
    with pytest.raises(MrictError, match=r"2 series; .* with --series NAME: \w{8} \(MR, 6 images\)"):
        read_series(tmp_path)
    series = list_series(tmp_path)
    assert [(s.modality, s.images) for s in series].count(("MR", 6)) == 3
    assert series[-1].headers[0][1].SeriesNumber == 9
    for wanted in (series[-1].name, series[-1].uid):
        np.testing.assert_array_equal(read_series(tmp_path, wanted).array, stored(seed=1))
    with pytest.raises(MrictError, match="no series of that name"):
        read_series(tmp_path, "nonsense")


def test_wrong_modality(tmp_path):
    write_mr_series(tmp_path, stored(), grid(), Modality="CT")
    with pytest.raises(MrictError, match=r"no MR series; found: \w{8} \(CT, 6 images\); give the folder of the MR"):
        read_series(tmp_path)
    assert read_series(tmp_path, modality="CT").shape == read_series(tmp_path, modality="").shape == (7, 5, 6)


def shear(files):
    for k, file in enumerate(files):
        x, y, z = pydicom.dcmread(file).ImagePositionPatient
        retag(file, ImagePositionPatient=[x, y + 0.3 * k, z])


def uneven(files):
    for k, file in enumerate(files[3:]):
        x, y, z = pydicom.dcmread(file).ImagePositionPatient
        retag(file, ImagePositionPatient=[x, y, z + 0.4 * (k + 1)])


def copy_of_first(files):
    shutil.copy(files[1], files[1].with_name("copy.dcm"))


def echo(files):
    uids = {k: pydicom.dcmread(files[0])[k].value for k in new_uids()}
    write_mr_series(files[0].parent, stored(seed=2), grid(), uids=uids, prefix="ECHO", EchoTime="9.2", EchoNumbers=2)


def add_slice_of(affine):
    def change(files):
        uids = {k: pydicom.dcmread(files[0])[k].value for k in new_uids()}
        write_mr_series(files[0].parent, stored((7, 5, 1)), affine, uids=uids, prefix="X")

    return change


def cut(keep):
    return lambda files: files[2].write_bytes(files[2].read_bytes()[:keep])


def tag_all(**tags):
    return lambda files: [retag(file, **tags) for file in files]


def tag_third(**tags):
    return lambda files: retag(files[2], **tags)


BAD = {
    "gap": (lambda f: (f[2].unlink(), f[3].unlink()), "2 slices are missing from .* 2.5 mm distance: 2 between 42"),
    "uneven": (uneven, "uneven slices, 2.5 to 2.9 mm apart"),
    "shear": (shear, "shifted sideways by up to 1.5 mm"),
    "copy": (copy_of_first, r"the same slice twice .*: IM.* and copy\.dcm \(1 such pairs\).*remove the copies"),
    "echoes": (echo, r"2 EchoTime: 9\.2 \(6\), none \(6\).*/EchoTime=none$"),
    "size": (tag_third(Rows=4, PixelData=b"\0" * 56), "(4 x 7 pixels against 5 x 7|5 x 7 pixels against 4 x 7)"),
    "spacing": (tag_third(PixelSpacing=[1, 1]), "pixels of (1 x 1 mm against 1.1 x 0.9|1.1 x 0.9 mm against 1 x 1) mm"),
    "localizer": (add_slice_of(grid(np.eye(3)[[1, 2, 0]])), "directions differ by up to 1;.*not a localizer"),
    "colour": (tag_all(PhotometricInterpretation="RGB", SamplesPerPixel=3), "a colour image"),
    "palette": (tag_all(PhotometricInterpretation="PALETTE COLOR"), "a colour image"),
    "no position": (tag_third(ImagePositionPatient=None), "no ImagePositionPatient"),
    "position of two": (tag_third(ImagePositionPatient=[1, 2]), "ImagePositionPatient is not 3 numbers"),
    "flat axes": (tag_all(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "not two unit vectors at a right angle"),
    "zero spacing": (tag_all(PixelSpacing=[0, 1]), "PixelSpacing is not positive"),
    "micrometres": (tag_all(PixelSpacing=[900, 900]), "voxels of 900 x 900 x 2.5 mm"),
    "zero slope": (tag_third(RescaleSlope=0, RescaleIntercept=0), "RescaleSlope is not positive"),
    "slope of turned sign": (tag_third(RescaleSlope=-1, RescaleIntercept=0), "RescaleSlope is not positive"),
    "mosaic": (tag_all(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "a mosaic, several slices tiled"),
    "phase": (tag_all(ImageType=["ORIGINAL", "PRIMARY", "P", "ND"]), "a phase image; expected magnitudes"),
    "phase by component": (tag_all(ComplexImageComponent="PHASE"), "a phase image; expected magnitudes"),
    "table": (tag_all(ModalityLUTSequence=[Dataset()]), "grey values use a lookup table"),
    "frames": (tag_all(NumberOfFrames=3), "3 frames without positions"),
    "pixels cut": (cut(-20), r"cannot be read \(50 bytes of pixels, expected 70\)"),
    "header cut": (cut(700), r"IM\d+\.dcm: cannot be read"),
    "no pixels": (tag_third(PixelData=None), r"cannot be read \(0 bytes of pixels, expected 70\)"),
    "two studies": (tag_third(StudyInstanceUID="1.2.3"), "slices of 2 different StudyInstanceUID"),
    "two frames of reference": (tag_third(FrameOfReferenceUID="1.2.3"), "2 different FrameOfReferenceUID"),
    "none": (lambda files: [f.unlink() for f in files], r"no DICOM image: empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_series(tmp_path, case):
    files = write_mr_series(tmp_path, stored(), grid())
    spoil, message = BAD[case]
    spoil(files)
    with pytest.raises(MrictError, match=message) as error:
        read_series(tmp_path)
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


def test_no_such_folder(tmp_path):
    with pytest.raises(MrictError, match="no such file or folder; expected a DICOM series"):
        read_series(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", range(0, 1200, 60))
def test_a_file_cut_anywhere_never_gives_a_volume(tmp_path, keep):
    (file,) = write_mr_series(tmp_path, stored((7, 5, 1)), grid())
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(MrictError):
        read_series(tmp_path)


def test_slices_that_may_be_missing_are_remarked(tmp_path):
    files = write_mr_series(tmp_path, stored(), grid())
    assert read_series(tmp_path).remarks == ()
    files[0].unlink()
    (remark,) = read_series(tmp_path).remarks
    assert remark.startswith("5 slices, numbered 2 to 6")


def test_numbers_that_all_slices_share_say_nothing_of_missing_ones(tmp_path):
    write_mr_series(tmp_path, stored(), grid(), InstanceNumber=1)
    assert read_series(tmp_path).remarks == ()


def test_a_slope_of_some_slices_alone_is_said(tmp_path):
    files = write_mr_series(tmp_path, stored(), grid())
    retag(files[2], RescaleSlope=2, RescaleIntercept=0)
    assert read_series(tmp_path).remarks[0].startswith("only 1 of 6 slices have a RescaleSlope")
    for file in files[2::2]:
        file.unlink(missing_ok=True)
    files[1].unlink(missing_ok=True)
    write_mr_series(tmp_path / "half", stored(), grid(spacing=(1, 1, 5)), SpacingBetweenSlices=2.5)
    (remark,) = read_series(tmp_path / "half").remarks
    assert remark.startswith("slices are 5 mm apart, but SpacingBetweenSlices is 2.5")


def test_distances_that_drift_are_uneven(tmp_path):
    """Every step is within the rounding that is let pass; the sum of them is not."""
    files = write_mr_series(tmp_path, stored((4, 4, 20)), grid())
    for k, file in enumerate(files):
        x, y, z = pydicom.dcmread(file).ImagePositionPatient
        retag(file, ImagePositionPatient=[x, y, z + 0.02 * min(k, 10)])
    with pytest.raises(MrictError, match=r"uneven slices, 2\.5 to 2\.52 mm apart"):
        read_series(tmp_path)


def test_positions_of_few_decimals_are_even(tmp_path):
    files = write_mr_series(tmp_path, stored((4, 4, 20)), grid(spacing=(1, 1, 1 / 3)))
    for file in files:
        x, y, z = pydicom.dcmread(file).ImagePositionPatient
        retag(file, ImagePositionPatient=[x, y, round(z, 2)])
    assert read_series(tmp_path).spacing_mm[2] == pytest.approx(1 / 3, abs=1e-3)


def test_is_dicom(tmp_path):
    (file,) = write_mr_series(tmp_path / "deep" / "er", stored((2, 2, 1)), grid(), suffix="")
    (tmp_path / "x.dcm").write_text("no")
    assert is_dicom(file)
    assert is_dicom(file.parent)
    assert not is_dicom(tmp_path / "x.dcm")
    assert not is_dicom(tmp_path)
    assert not is_dicom(tmp_path / "nowhere")
    assert is_dicom(PYDICOM / "dicomdirtests")


REAL = {
    "CT_small.dcm": ((128, 128, 1), (0.661468, 0.661468, 5)),
    "693_J2KI.dcm": ((512, 512, 1), (0.478516, 0.478516, 20)),
    "J2K_pixelrep_mismatch.dcm": ((512, 512, 1), (0.430976, 0.430976, 5)),
    "examples_overlay.dcm": ((484, 300, 1), (0.72314, 0.72314, 4)),
    **{
        f"MR_small{kind}.dcm": ((64, 64, 1), (0.3125, 0.3125, 0.8))
        for kind in (
            *("", "_RLE", "_bigendian", "_expb", "_implicit", "_jp2klossless", "_jpeg_ls_lossless", "_padded"),
        )
    },
}


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read(name):
    volume = read_series(PYDICOM / name, modality="")
    assert isinstance(volume, DicomVolume)
    assert (volume.shape, volume.spacing_mm) == (REAL[name][0], pytest.approx(REAL[name][1], abs=1e-4))
    image = sitk.ReadImage(str(PYDICOM / name))
    np.testing.assert_allclose(volume.array, sitk.GetArrayFromImage(image).T, rtol=1e-6)
    assert np.allclose(volume.affine[:, 3], itk_affine(image)[:, 3])


def test_one_real_mr_in_every_transfer_syntax():
    arrays = [read_series(PYDICOM / name).array for name in REAL if name.startswith("MR_small")]
    for array in arrays[1:]:
        np.testing.assert_array_equal(array, arrays[0])


REFUSED = {
    "MR_truncated.dcm": r"bytes of pixels, expected 8192\); it is damaged or cut short",
    "SC_rgb_rle_2frame.dcm": "a colour image",
    "SC_ybr_full_422_uncompressed.dcm": "a colour image",
    "examples_palette.dcm": "a colour image",
    "JPEG2000.dcm": "no ImagePositionPatient; expected the slice's position",
    "JPEGLSNearLossless_16.dcm": "no ImagePositionPatient",
    "liver_1frame.dcm": r"no DICOM image: Segmentation \(1\)",
    **dict.fromkeys(("rtdose.dcm", "badVR.dcm"), r"no DICOM image: RT Dose \(1\)"),
    "rtstruct.dcm": r"no DICOM image: RT Structure Set \(1\)",
    "rtplan.dcm": r"no DICOM image: RT Plan \(1\)",
    "test-SR.dcm": r"no DICOM image: Comprehensive SR \(1\)",
    "waveform_ecg.dcm": r"no DICOM image: 12-lead ECG Waveform \(1\)",
    "reportsi.dcm": r"no DICOM image: Basic Text SR \(1\)",
    **dict.fromkeys(("README.txt", "zipMR.gz"), r"no DICOM image: not DICOM \(1\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_real_files_are_refused(name):
    with pytest.raises(MrictError, match=REFUSED[name]) as error:
        read_series(PYDICOM / name, modality="")
    assert re.fullmatch(r"[^\n]*; [^\n]*", str(error.value))


FOLDERS = {
    "98892001": (16, 16, 5),  # a CT beside its localizer
    "98892001/CT5N": (16, 16, 5),
    "77654033/CT2": r"161 slices are missing from .* 1\.25 mm",
    "98892001/CT2N": r"directions differ by up to 1; expected one stack of parallel slices \(not a localizer",
    "98892003": r"7 series; expected one; choose one with --series NAME: \w{8} \(MR, 1 image\); ",
    "98892003/MR700": "a projection; expected magnitudes",
    "TINY_ALPHA": "an image without Rows and Columns",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_real_folders(name):
    folder, expected = PYDICOM / "dicomdirtests" / name, FOLDERS[name]
    if isinstance(expected, str):
        with pytest.raises(MrictError, match=expected):
            read_series(folder, modality="")
        return
    volume = read_series(folder, modality="CT")
    assert volume.shape == expected
    if next(iter(folder.iterdir())).is_file():
        array, affine = sitk_volume(folder)
        np.testing.assert_array_equal(volume.array, array)
        assert corner_gap_mm(volume.affine, affine, expected) < 1e-3


def test_a_real_ct_is_no_mr():
    with pytest.raises(MrictError, match=r"no MR series; found: \w{8} \(CT, 1 image\)"):
        read_series(PYDICOM / "CT_small.dcm")


def test_every_file_below_a_folder_is_in_a_series_or_listed_with_its_reason(tmp_path):
    one, copies = new_uids(), new_uids()
    write_mr_series(tmp_path / "a" / "deep", stored(), grid(), uids=one, suffix="")
    write_enhanced(tmp_path / "a" / "multi", stored(), grid())
    write_mr_series(tmp_path / "a" / "loc", stored((4, 4, 1)), grid(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    for name in ("b", "c"):  # the same series twice
        write_mr_series(tmp_path / name, stored(), grid(), uids=copies)
    write_mr_series(tmp_path / "ct", stored((4, 4, 2)), grid(), Modality="CT")
    write_mr_series(tmp_path / "other", stored((4, 4, 2)), grid(), Modality="OT", SOPClassUID=SECONDARY_CAPTURE)
    (damaged,) = write_mr_series(tmp_path / "cut", stored((4, 4, 1)), grid())
    damaged.write_bytes(damaged.read_bytes()[:700])
    shutil.copy(PYDICOM / "test-SR.dcm", tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b" / ".DS_Store").write_bytes(b"")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a" / "notes.txt").write_text("of the user")
    found, aside = series_below(tmp_path)
    here = {str(f.folder.relative_to(tmp_path)): f for f in found}
    usable = {name: f.images for name, f in here.items() if not f.why_not}
    assert usable == {"a/deep": 6, "a": 6, "b": 6, "c": 6}
    assert {name for name in usable if not here[name].alone} == {"a"}
    for name, count in usable.items():
        assert read_series(tmp_path / name, here[name].name).shape[2] == count
    assert here["a/loc"].why_not == "a localizer"
    assert here["ct"].why_not == "a CT series"
    name = here["other"].name
    assert here["other"].why_not == f"not identified as MR (secondary capture): read only with --series {name}"
    whys = {str(path.relative_to(tmp_path)): why for path, why in aside}
    assert "it is damaged or cut short" in whys.pop(str(damaged.relative_to(tmp_path)))
    assert whys == {
        ".hidden": "hidden folder",
        "a/notes.txt": "not DICOM",
        "b/.DS_Store": "hidden file",
        "broken": "not a plain file",
        "linked": "link to a folder",
        "test-SR.dcm": "Comprehensive SR",
    }
    files = {p for p in tmp_path.rglob("*") if p.is_file() and "linked" not in p.parts}
    assert files - {path for path, _ in aside} == {file for f in found for file in f.files}
