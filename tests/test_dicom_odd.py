"""DICOM as it comes: things beside images, tags missing or padded, headers and bytes that are wrong."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import zlib

import numpy as np
import pydicom
import pytest
from dicom_files import new_uids, retag, write_enhanced, write_mr_series
from pydicom import uid
from pydicom.uid import ExplicitVRBigEndian, RLELossless
from test_dicom_read import grid, stored

from mrict_core.data.dicom import is_dicom, list_series, read_series, series_below
from mrict_core.errors import MrictError, UnavailableError

SHAPE = (7, 5, 6)
BESIDE = {
    uid.RawDataStorage: "Raw Data",
    uid.GrayscaleSoftcopyPresentationStateStorage: "Grayscale Softcopy Presentation State",
    uid.EnhancedSRStorage: "Enhanced SR",
    uid.MRSpectroscopyStorage: "MR Spectroscopy",
    uid.EncapsulatedPDFStorage: "Encapsulated PDF",
    uid.RTDoseStorage: "RT Dose",
    uid.SegmentationStorage: "Segmentation",
    uid.ParametricMapStorage: "Parametric Map",
    uid.SpatialRegistrationStorage: "Spatial Registration",
    uid.KeyObjectSelectionDocumentStorage: "Key Object Selection Document",
    uid.MediaStorageDirectoryStorage: "Media Storage Directory",
    "1.3.46.670589.11.0.0.12.2": "DICOM of an unknown class",
}


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_what_is_no_image_is_left_aside_and_counted_whatever_its_tags(tmp_path, kind):
    """Objects in the very series of the images, with rows, columns and pixels; half of them without a colour space."""
    uids = new_uids()
    if kind == "classic":
        write_mr_series(tmp_path, stored(), grid(), uids=uids)
    else:
        write_enhanced(tmp_path / "multi.dcm", stored(), grid(), uids=uids)
    for n, sop_class in enumerate(BESIDE):
        file = write_mr_series(tmp_path / f"x{n}", stored((4, 4, 1)), grid(), uids=uids, SOPClassUID=sop_class)[0]
        if n % 2:
            retag(file, PhotometricInterpretation=None, ImagePositionPatient=None)
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, stored())
    (remark,) = volume.notes
    assert all(f"{what} (1)" in remark for what in BESIDE.values())
    assert remark.count("(") == len(BESIDE)


MODALITIES = {  # tags => the modality that a series is listed with
    "no tag": ({"Modality": None}, "MR"),
    "other": ({"Modality": "OT"}, "MR"),
    "no class": ({"SOPClassUID": None}, "MR"),
    "lower case": ({"Modality": "mr"}, "MR"),
    "CT by class": ({"Modality": None, "SOPClassUID": uid.CTImageStorage}, "CT"),
    "neither": ({"Modality": None, "SOPClassUID": None}, "no modality"),
    "other, no class": ({"Modality": "OT", "SOPClassUID": None}, "OT"),
    "secondary capture": ({"SOPClassUID": uid.SecondaryCaptureImageStorage}, "secondary capture"),
    "contradiction": ({"Modality": "CT"}, "CT by its tag and MR by its class"),
    "ultrasound": ({"Modality": "US", "SOPClassUID": uid.UltrasoundImageStorage}, "US"),
}


def without(file, **tags):
    """Set tags; a class that is taken away leaves the file's meta information too."""
    dataset = pydicom.dcmread(file)
    for keyword, value in tags.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    if "SOPClassUID" in tags:
        dataset.file_meta.MediaStorageSOPClassUID = tags["SOPClassUID"] or ""
    dataset.save_as(file, enforce_file_format=False)


@pytest.mark.parametrize("case", MODALITIES)
def test_modality_by_class_by_tag_or_by_name(tmp_path, case):
    tags, modality = MODALITIES[case]
    for file in write_mr_series(tmp_path, stored(), grid()):
        without(file, **tags)
    (series,) = list_series(tmp_path)
    assert series.modality == modality
    if modality == "MR":
        assert read_series(tmp_path).remarks == ()
        return
    with pytest.raises(MrictError, match=rf"no MR series; found: \w{{8}} \({modality}, 6 images\)") as error:
        read_series(tmp_path)
    if modality in ("CT", "US"):
        with pytest.raises(MrictError, match="no MR series of that name"):
            read_series(tmp_path, series.name)
        return
    assert f"--series {series.name} if that is one" in str(error.value)
    volume = read_series(tmp_path, series.name)
    np.testing.assert_array_equal(volume.array, stored())
    assert volume.remarks == (f"read as MR because --series names it: {modality}",)


def test_a_screenshot_in_the_series_is_no_part_of_it(tmp_path):
    uids = new_uids()
    write_mr_series(tmp_path, stored(), grid(), uids=uids)
    tags = {"SOPClassUID": uid.SecondaryCaptureImageStorage, "PhotometricInterpretation": "RGB"}
    write_mr_series(tmp_path, stored((4, 4, 1)), grid(), uids=uids, prefix="SC", **tags)
    (remark,) = read_series(tmp_path).notes
    assert remark.endswith("(secondary capture, 1 image)")


PADDED = {  # type of the stored values, padding in them, the tags, the rescaling
    "low, signed": (np.int16, -32768, {"PixelPaddingValue": -32768}, None),
    "high": (np.uint16, 65535, {"PixelPaddingValue": 65535}, None),
    "range": (np.int16, -1010, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1000}, None),
    "range the other way": (np.uint16, 65000, {"PixelPaddingValue": 65535, "PixelPaddingRangeLimit": 64000}, None),
    "among the values": (np.uint16, 777, {"PixelPaddingValue": 777}, None),
    "before the rescaling": (np.int16, -2000, {"PixelPaddingValue": -2000}, lambda k: (k + 0.5, 3 - k)),
}


def padded_series(case):
    dtype, value, tags, slope = PADDED[case]
    plain = stored(SHAPE).astype(dtype)
    plain[plain == 777] = 778
    plain[3, 3] = 0
    outside = np.zeros(SHAPE, bool)
    outside[:2], outside[:, 0, 1:] = True, True
    return plain, outside, np.where(outside, np.asarray(value, dtype), plain), tags, slope


@pytest.mark.parametrize("case", PADDED)
@pytest.mark.parametrize("kind", ["classic", "big endian", "RLE", "enhanced"])
def test_padding_is_background_and_the_rest_as_it_was(tmp_path, case, kind):
    plain, outside, padded, tags, slope = padded_series(case)
    slope = slope or (lambda k: (1, 0))
    tags = tags | {"PixelRepresentation": int(plain.dtype == np.int16)}
    pixels = padded.view(np.uint16)
    if kind == "enhanced":
        write_enhanced(tmp_path / "multi", pixels, grid(), slope, **tags)
    else:
        syntax = {"big endian": ExplicitVRBigEndian, "RLE": RLELossless}.get(kind, uid.ExplicitVRLittleEndian)
        write_mr_series(tmp_path, pixels, grid(), syntax=syntax, slope=slope, **tags)
    volume = read_series(tmp_path)
    expected = np.stack([plain[..., k] * slope(k)[0] + slope(k)[1] for k in range(SHAPE[2])], axis=2)
    least = expected[~outside].min()
    np.testing.assert_allclose(volume.array, np.where(outside, least, expected), rtol=1e-6)
    count = np.count_nonzero(outside)
    assert volume.notes == (f"{count} padding voxels (PixelPaddingValue) set to background ({least:g})",)


def test_a_negative_padding_that_the_header_writes_as_an_unsigned_number(tmp_path):
    plain, outside, padded, _, _ = padded_series("before the rescaling")
    tags = {"PixelPaddingValue": -2000, "PixelRepresentation": 1}
    for file in write_mr_series(tmp_path, padded.view(np.uint16), grid(), **tags):
        tag = b"\x28\x00\x20\x01"
        file.write_bytes(file.read_bytes().replace(tag + b"SS", tag + b"US"))
        assert pydicom.dcmread(file).PixelPaddingValue == 2**16 - 2000
    np.testing.assert_array_equal(read_series(tmp_path).array, np.where(outside, plain[~outside].min(), plain))


def test_padding_that_is_background_already_is_not_worth_a_word(tmp_path):
    array = stored(SHAPE)
    array[:2] = 0
    write_mr_series(tmp_path, array, grid(), PixelPaddingValue=0)
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.remarks == ()


def test_nothing_but_padding(tmp_path):
    write_mr_series(tmp_path, np.full(SHAPE, 7, np.uint16), grid(), PixelPaddingValue=7)
    with pytest.raises(MrictError, match="every pixel is padding by its PixelPaddingValue"):
        read_series(tmp_path)


def test_padding_after_a_lossy_compression_is_left_and_said(tmp_path):
    write_mr_series(tmp_path, stored(), grid(), PixelPaddingValue=7, LossyImageCompression="01")
    (remark,) = read_series(tmp_path).remarks
    assert remark.startswith("lossy compression: PixelPaddingValue is no longer exact")


ABSURD = {
    "pixels": ({"Rows": 65535, "Columns": 65535}, r"bytes, expected at least \d{10,} bytes of pixels"),
    "frames below 0": ({"NumberOfFrames": -5}, "NumberOfFrames is not a positive number"),
    "no frames": ({"NumberOfFrames": 0}, "NumberOfFrames is not a positive number"),
    "billions of frames": ({"NumberOfFrames": 2**31 - 1}, "frames"),
    "frames, one missing": ({"NumberOfFrames": 5}, "5 frames (but 6 descriptions|without positions)"),
    "no rows": ({"Rows": 0}, "Rows or Columns is not a positive number"),
    "without rows": ({"Rows": None}, "an image without Rows and Columns"),
    "bits": ({"BitsAllocated": 65535}, "BitsAllocated, BitsStored and PixelRepresentation give no number type"),
    "few bits": ({"BitsAllocated": 12}, "BitsAllocated, BitsStored and PixelRepresentation give no number type"),
    "no bits": ({"BitsAllocated": None}, "BitsAllocated, BitsStored and PixelRepresentation give no number type"),
    "more bits stored": ({"BitsStored": 40}, "BitsAllocated, BitsStored and PixelRepresentation give no number type"),
    "fewer bits stored than used": ({"BitsStored": 4, "HighBit": 3}, "pixels with more bits than BitsStored"),
    "bits elsewhere": ({"HighBit": 3}, "HighBit is not the last of BitsStored"),
    "sign": ({"PixelRepresentation": 9}, "BitsAllocated, BitsStored and PixelRepresentation give no number type"),
    "no colour space": ({"PhotometricInterpretation": None}, "no PhotometricInterpretation"),
    "pixels cut": ({"PixelData": b"\0" * 20}, "(bytes of pixels, expected|bytes, expected at least)"),
}


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
@pytest.mark.parametrize("case", ABSURD)
def test_absurd_headers_are_one_line(tmp_path, case, kind):
    tags, message = ABSURD[case]
    if kind == "classic":
        files = write_mr_series(tmp_path, stored(), grid())
    else:
        files = [write_enhanced(tmp_path / "multi.dcm", stored(), grid())]
    without(files[0], **tags)
    with pytest.raises(MrictError, match=message) as error:
        read_series(tmp_path)
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, UnavailableError)


def test_memory_is_bounded_by_the_header(tmp_path):
    """A compressed file may say any size: what the machine cannot hold is not tried, what it can does not decode."""
    for file in write_mr_series(tmp_path, stored((64, 64, 1)), grid(), syntax=RLELossless):
        retag(file, Rows=65535, Columns=65535)
    with pytest.raises(MrictError, match=r"(GB of memory|cannot be decoded|cannot be read)"):
        read_series(tmp_path)


def test_a_deflated_bomb_is_not_inflated(tmp_path):
    (file,) = write_mr_series(tmp_path, stored((8, 8, 1)), grid())
    dataset = pydicom.dcmread(file)
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(file)
    np.testing.assert_array_equal(read_series(file).array, stored((8, 8, 1)))
    start = 144 + int.from_bytes(file.read_bytes()[140:144], "little")
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    with open(file, "r+b") as opened:
        opened.seek(start)
        opened.truncate()
        for _ in range(20):
            opened.write(packer.compress(bytes(1 << 20)))
        opened.write(packer.flush())
    code = (
        "import resource, sys, psutil; from mrict_core.data.dicom import read_series\n"
        "limit = psutil.Process().memory_info().vms + 2**24\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try: read_series(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"UnavailableError {file}: needs "), done.stderr


def test_too_little_memory_says_nothing_of_the_content(tmp_path):
    write_mr_series(tmp_path / "small", stored(), grid())
    write_mr_series(tmp_path / "large", stored((512, 512, 12)), grid())
    code = (
        "import resource, sys, psutil; from mrict_core.data.dicom import read_series\n"
        "from mrict_core.errors import UnavailableError\n"
        "read_series(sys.argv[1] + '/small')\n"
        "limit = psutil.Process().memory_info().vms + 2**23\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try: read_series(sys.argv[1] + '/large')\n"
        "except UnavailableError as error: print('refused:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"refused: {tmp_path}"), done.stderr


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_bytes_that_change_anywhere_never_end_in_another_error(tmp_path, kind):
    if kind == "classic":
        (file,) = write_mr_series(tmp_path, stored((7, 5, 1)), grid())
    else:
        file = write_enhanced(tmp_path / "multi.dcm", stored(), grid())
    content, numbers = file.read_bytes(), np.random.default_rng(0)
    refused: list[str] = []
    for _ in range(150):
        changed = bytearray(content)
        for place in numbers.integers(128, len(content), numbers.integers(1, 6)):
            changed[place] = numbers.integers(256)
        file.write_bytes(changed[: numbers.integers(128, len(changed)) if numbers.random() < 0.2 else None])
        try:
            assert read_series(file).array.dtype == np.float32
        except MrictError as error:
            refused.append(str(error))
    assert 30 < len(refused) < 150
    assert not any("\n" in text for text in refused)


@pytest.mark.parametrize("content", [b"", b"<html>no such page</html>", bytes(4096)])
def test_a_file_named_as_dicom_that_is_none_may_be_the_missing_slice(tmp_path, content):
    files = write_mr_series(tmp_path, stored(), grid())
    files[0].write_bytes(content)
    with pytest.raises(MrictError, match=rf"{files[0].name}: cannot be read \(named like a DICOM file, but not DICOM"):
        read_series(tmp_path)
    files[0].rename(tmp_path / "notes.txt")
    assert "skipped: not DICOM (1)" in read_series(tmp_path).notes


def test_a_localizer_alone_is_taken_and_said(tmp_path):
    write_mr_series(tmp_path, stored(), grid(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER", "M"])
    assert read_series(tmp_path).remarks == ("the series is a localizer",)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_that_may_not_be_read(tmp_path):
    files = write_mr_series(tmp_path, stored(), grid())
    files[2].chmod(0)
    with pytest.raises(UnavailableError, match=r"IM\d+\.dcm: cannot be read \(Permission denied\)"):
        read_series(tmp_path)


def test_faults_that_say_nothing_of_the_content(tmp_path, monkeypatch):
    files = write_mr_series(tmp_path, stored(), grid())
    whole = pydicom.dcmread

    def fails(file, **options):
        if "specific_tags" not in options and file == files[1]:
            files[1].rename(tmp_path / "away")  # between the header and the pixels
        return whole(file, **options)

    monkeypatch.setattr(pydicom, "dcmread", fails)
    with pytest.raises(UnavailableError, match=rf"{files[1].name}: was replaced or removed while it was read"):
        read_series(tmp_path)
    with pytest.raises(UnavailableError, match="no such file or folder"):
        read_series(tmp_path / "nowhere")
    assert not is_dicom(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    write_mr_series(tmp_path, stored(), grid())
    fault = OSError(errno.EIO, "Input/output error", str(tmp_path / "below"))
    monkeypatch.setattr(os, "walk", lambda folder, onerror: onerror(fault) or iter(()))
    with pytest.raises(UnavailableError, match=r"below: cannot be read \(Input/output error\)"):
        read_series(tmp_path)
    (found, why), *_ = series_below(tmp_path)[1]
    assert (found, "Input/output error" in why) == (tmp_path / "below", True)


def test_descriptions_are_printed_printable(tmp_path):
    for name in "ab":
        write_mr_series(tmp_path / name, stored(), grid(), SeriesDescription="T1\x1b[31m\nred")
    with pytest.raises(MrictError, match=r"T1\\x1b\[31m\\nred") as error:
        read_series(tmp_path, keep_identifiers=True)
    assert str(error.value).isprintable()


TILTED = {
    "a tilt in an uneven series": (lambda k: (0, 0.4 * k, 2.5 * k + 0.6 * (k % 3)), r"sideways by up to 2 mm and 1\.3"),
    "two stacks beside each other": (
        lambda k: (80 * (k % 2), 0, 5 * (k // 2)),
        "80 mm apart sideways",
    ),
}


@pytest.mark.parametrize("case", TILTED)
def test_the_cause_is_named_and_not_its_consequence(tmp_path, case):
    place, message = TILTED[case]
    write_mr_series(tmp_path, stored(), grid(), ImagePositionPatient=lambda k: list(map(float, place(k))))
    with pytest.raises(MrictError, match=message):
        read_series(tmp_path)


@pytest.mark.parametrize("word", ["MOSAIC", "VFRAME"])
def test_tiled_pictures_are_named(tmp_path, word):
    write_mr_series(tmp_path, stored(), grid(), ImageType=["DERIVED", "PRIMARY", "DIFFUSION", word])
    with pytest.raises(MrictError, match=r"a mosaic, several slices tiled in one picture; .* as single slices"):
        read_series(tmp_path)
