"""What identifies a patient stays in the MR: not in messages, logs, texts, NIfTI or DICOM files made of it."""

from __future__ import annotations

import gzip
import logging
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import IDENTIFIERS, PLANTED, retag, write_enhanced, write_mr_series
from test_dicom_read import BAD, grid, stored

from mrict_core.data.dicom import list_series, read_series, write_ct_series
from mrict_core.data.dicom.read import IDENTITY
from mrict_core.data.dicom.values import hushed
from mrict_core.data.images.volumes import save_nifti
from mrict_core.errors import MrictError

BY = {"model": "mk3@0123abcd", "version": "0.1.0"}
ODD = {"PatientBirthDate": "DOE 1951", "StudyDate": "2025 DOE", "PatientAge": "JOHN", "StudyTime": "HOUSE"}


def found_in(content: str | bytes) -> list[str]:
    """Return the planted values in a text or in the bytes of a file."""
    content = content.encode() if isinstance(content, str) else content
    return [value for value in PLANTED if value.encode() in content]


def content_of(folder: Path) -> bytes:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    assert files
    return b"".join(str(file.relative_to(folder)).encode() + file.read_bytes() for file in files)


def odd(folder: Path) -> None:
    """Give all files values that pydicom warns of, quoting them."""
    for file in folder.iterdir():
        content = file.read_bytes()
        for keyword, value in ODD.items():
            old = IDENTIFIERS[keyword].encode()
            content = content.replace(old, value.encode()[: len(old)].ljust(len(old)))
        file.write_bytes(content.replace(b"HFS ", b"DOE^").replace(b"998877", b"DOE^DR"))


@pytest.fixture
def heard(caplog, capfd):
    """Collect everything that is logged, warned of or printed."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield lambda: caplog.text + "".join(str(w.message) for w in caught) + "".join(capfd.readouterr())


def test_the_plants_are_there_and_pydicom_would_tell(tmp_path, heard):
    write_mr_series(tmp_path / "mr", stored(), grid())
    assert set(found_in(content_of(tmp_path / "mr"))) == set(PLANTED)
    odd(tmp_path / "mr")
    assert pydicom.dcmread(next((tmp_path / "mr").iterdir())).AcquisitionNumber == "DOE^DR"
    assert "Invalid value for VR IS: 'DOE^DR'" in heard()


@pytest.mark.parametrize("values", ["as they should be", "odd"])
def test_nothing_is_told_of_a_patient(tmp_path, heard, values):
    write_mr_series(tmp_path / "mr", stored(), grid())
    write_enhanced(tmp_path / "multi.dcm", stored(), grid())
    if values == "odd":
        odd(tmp_path / "mr")
    for keep in (False, True):
        for place in ("mr", "multi.dcm"):
            volume = read_series(tmp_path / place, keep_identifiers=keep)
            series = list_series(tmp_path / place)
            texts = [volume, volume.source, *volume.source.frames, *series, *[s.text() for s in series]]
            assert found_in("".join(f"{t} {t!r}" for t in texts)) == []
            write_ct_series(tmp_path / f"ct{keep}{place}", volume.array, volume, keep_identifiers=keep, **BY)
    assert found_in(heard()) == []


@pytest.mark.parametrize("case", BAD)
def test_errors_quote_no_tag(tmp_path, heard, case):
    files = write_mr_series(tmp_path, stored(), grid())
    BAD[case][0](files)
    with pytest.raises(MrictError) as error:
        read_series(tmp_path)
    assert found_in(str(error.value) + heard()) == []
    assert error.value.__suppress_context__ or error.value.__context__ is None


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "PixelSpacing", "RescaleSlope", "Rows"])
def test_a_name_in_the_wrong_place_is_not_quoted(tmp_path, heard, keyword):
    files = write_mr_series(tmp_path, stored(), grid(), slope=lambda k: (1, 0))
    for file in files:
        dataset = pydicom.dcmread(file)
        del dataset[keyword]
        dataset.add_new(keyword, "LO", "DOE^JOHN")
        dataset.save_as(file)
    with pytest.raises(MrictError) as error:
        read_series(tmp_path)
    assert found_in(str(error.value) + heard()) == []


def test_several_series_are_told_apart_without_their_descriptions(tmp_path):
    for name in "ab":
        write_mr_series(tmp_path / name, stored(), grid())
    with pytest.raises(MrictError) as error:
        read_series(tmp_path)
    assert found_in(str(error.value)) == []
    uids = [s.uid for s in list_series(tmp_path)]
    assert not any(uid in str(error.value) for uid in uids)
    with pytest.raises(MrictError) as error:
        read_series(tmp_path, keep_identifiers=True)
    assert "T1 for Dr House" in str(error.value)
    assert all(uid in str(error.value) for uid in uids)


def test_nifti_holds_no_identifier(tmp_path):
    write_mr_series(tmp_path / "mr", stored(), grid())
    volume = read_series(tmp_path / "mr", keep_identifiers=True)
    file = save_nifti(tmp_path / "ct.nii.gz", volume.array, volume.affine, volume.header)
    assert found_in(gzip.decompress(file.read_bytes())) == []


def test_ct_series_holds_no_identifier(tmp_path):
    write_mr_series(tmp_path / "mr", stored(), grid())
    for keep in (False, True):
        volume = read_series(tmp_path / "mr", keep_identifiers=keep)
        folder = write_ct_series(tmp_path / f"ct{keep}", volume.array, volume, **BY)
        assert found_in(content_of(folder)) == []
        for file in folder.iterdir():
            image = pydicom.dcmread(file)
            assert (str(image.PatientName), image.PatientIdentityRemoved) == ("ANONYMOUS^MRICT", "YES")
            assert image.PatientID.startswith("MRICT-")
            assert [e.keyword for e in image.iterall() if e.VR in ("DA", "TM", "DT") and e.value] == []
            assert image.PatientSex == image.AccessionNumber == image.ReferringPhysicianName == ""
            assert not any(element.tag.is_private for element in image.iterall())


def test_identifiers_are_kept_on_demand_only_and_no_more_than_the_study_needs(tmp_path):
    write_mr_series(tmp_path / "mr", stored(), grid())
    volume = read_series(tmp_path / "mr", keep_identifiers=True)
    folder = write_ct_series(tmp_path / "ct", volume.array, volume, keep_identifiers=True, **BY)
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        assert {k: image.get(k) for k in IDENTITY if k in IDENTIFIERS} == {
            k: v for k, v in IDENTIFIERS.items() if k in IDENTITY
        }
        assert "PatientIdentityRemoved" not in image
    absent = set(IDENTIFIERS) - set(IDENTITY)
    assert {"InstitutionName", "DeviceSerialNumber", "OperatorsName", "PatientAddress"} <= absent
    assert not {IDENTIFIERS[k] for k in absent} & set(found_in(content_of(folder)))
    plain = read_series(tmp_path / "mr")
    assert plain.source.identity is None
    with pytest.raises(MrictError, match="no identifiers to keep; expected a DICOM series; read it with"):
        write_ct_series(tmp_path / "other", plain.array, plain, keep_identifiers=True, **BY)


def test_names_of_other_scripts_are_kept(tmp_path):
    files = write_mr_series(tmp_path / "mr", stored(), grid())
    for file in files:
        retag(file, SpecificCharacterSet="ISO_IR 100", PatientName="MÜLLER^JÖRG")
    volume = read_series(tmp_path / "mr", keep_identifiers=True)
    folder = write_ct_series(tmp_path / "ct", volume.array, volume, keep_identifiers=True, **BY)
    assert {str(pydicom.dcmread(file).PatientName) for file in folder.iterdir()} == {"MÜLLER^JÖRG"}


def test_what_is_kept_of_the_mr_is_what_it_claims_to_be(tmp_path):
    files = write_mr_series(tmp_path / "mr", stored(), grid())
    with hushed():
        for file in files:
            retag(file, StudyInstanceUID="DOE^JOHN", FrameOfReferenceUID="HOSP-778899", SOPInstanceUID="HOUSE")
    odd(tmp_path / "mr")
    volume = read_series(tmp_path / "mr")
    folder = write_ct_series(tmp_path / "ct", volume.array, volume, **BY)
    assert found_in(content_of(folder)) == []
    image = pydicom.dcmread(next(folder.iterdir()))
    assert image.StudyInstanceUID.is_valid
    assert image.FrameOfReferenceUID.is_valid
    assert (image.PatientPosition, "SourceImageSequence" in image) == ("", False)


def test_values_are_the_same_with_and_without_identifiers(tmp_path):
    write_mr_series(tmp_path / "mr", stored(), grid())
    with_, without = (read_series(tmp_path / "mr", keep_identifiers=keep) for keep in (True, False))
    np.testing.assert_array_equal(with_.array, without.array)
    np.testing.assert_array_equal(with_.affine, without.affine)
