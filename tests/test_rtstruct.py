"""RTSTRUCT files, written by pydicom, as masks: holes, planes, thick slices, what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from mrict_core.data.dicom.rtstruct import mask_of, read_structures
from mrict_core.errors import MrictError
from mrict_core.pipeline.dose_files import _target_of

SPACING, ORIGIN = (2.0, 1.5, 3.0), (-20.0, -15.0, 40.0)
SIZE = (24, 30, 9)  # slices are not square


def grid(size=SIZE, spacing=SPACING, origin=ORIGIN, direction=None) -> sitk.Image:
    image = sitk.Image(size, sitk.sitkInt16)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(np.ravel(direction).tolist())
    return image


def square(x0, x1, y0, y1, k, axis=2) -> np.ndarray:
    """Return a closed contour around voxels x0…x1 and y0…y1 (ends left out) of slice k, LPS mm."""
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) - 0.5
    return np.insert(corners, axis, k, axis=1) * SPACING + ORIGIN


def box(x, y, slices) -> list[np.ndarray]:
    return [square(*x, *y, k) for k in slices]


def write(path: Path, structures: list[tuple], modality="RTSTRUCT") -> Path:
    """Write structures: (name, type, contours[, geometric type])."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = RTStructureSetStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    header = FileDataset("", {}, b"\0" * 128, meta)
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.Modality, header.PatientName = modality, "DOE^JOHN"
    header.StructureSetROISequence, header.ROIContourSequence, header.RTROIObservationsSequence = [], [], []
    for number, (name, kind, contours, *geometry) in enumerate(structures, 1):
        roi, drawn, seen = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType = geometry[0] if geometry else "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{value:.4f}" for value in np.ravel(points)]
            drawn.ContourSequence.append(contour)
        seen.ObservationNumber, seen.ReferencedROINumber, seen.RTROIInterpretedType = number, number, kind
        header.StructureSetROISequence.append(roi)
        header.ROIContourSequence.append(drawn)
        header.RTROIObservationsSequence.append(seen)
    pydicom.dcmwrite(path, header, enforce_file_format=True)
    return path


def mask(path: Path, structures: list[tuple], name: str, like=None) -> np.ndarray:
    """Return a structure's mask in the order x, y, z."""
    return sitk.GetArrayFromImage(mask_of(read_structures(write(path, structures))[name], like or grid())).T


def filled(x, y, slices) -> np.ndarray:
    expected = np.zeros(SIZE, np.uint8)
    expected[slice(*x), slice(*y), list(slices)] = 1
    return expected


def test_a_structure_is_filled_where_it_was_drawn(tmp_path):
    found = mask(tmp_path / "s.dcm", [("PTV", "PTV", box((3, 11), (5, 25), range(2, 6)))], "PTV")
    np.testing.assert_array_equal(found, filled((3, 11), (5, 25), range(2, 6)))


@pytest.mark.parametrize("geometry", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_contours_inside_others_are_holes_and_islands_in_them_are_filled(tmp_path, geometry):
    contours = [*box((3, 20), (3, 25), (4,)), *box((6, 17), (6, 20), (4,)), *box((9, 12), (9, 12), (4,))]
    found = mask(tmp_path / "s.dcm", [("RING", "ORGAN", contours, geometry)], "RING")
    expected = filled((3, 20), (3, 25), (4,)) - filled((6, 17), (6, 20), (4,)) + filled((9, 12), (9, 12), (4,))
    np.testing.assert_array_equal(found, expected)


def test_rounded_coordinates_do_not_part_a_hole_from_its_contour(tmp_path):
    """Both lie 0.05 of a voxel off a slice, one a ten-thousandth of a mm to either side."""
    contours = [square(3, 20, 3, 25, 4.05 - 3e-5), square(6, 17, 6, 20, 4.05 + 3e-5)]
    found = mask(tmp_path / "s.dcm", [("RING", "ORGAN", contours)], "RING")
    np.testing.assert_array_equal(found, filled((3, 20), (3, 25), (4,)) - filled((6, 17), (6, 20), (4,)))


def test_two_parts_in_one_slice_are_both_filled(tmp_path):
    contours = [*box((2, 6), (3, 8), (4,)), *box((12, 20), (3, 8), (4,))]
    found = mask(tmp_path / "s.dcm", [("LUNGS", "ORGAN", contours)], "LUNGS")
    np.testing.assert_array_equal(found, filled((2, 6), (3, 8), (4,)) + filled((12, 20), (3, 8), (4,)))


def test_the_point_order_and_a_closing_point_do_not_matter(tmp_path):
    contour = square(3, 11, 5, 25, 4)
    closed = np.concatenate([contour, contour[:1]])[::-1]
    found = mask(tmp_path / "s.dcm", [("PTV", "PTV", [closed])], "PTV")
    np.testing.assert_array_equal(found, filled((3, 11), (5, 25), (4,)))


def test_contours_on_thicker_slices_fill_the_slices_between(tmp_path):
    """Drawn on every third slice, 1, 4 and 7: each fills its neighbours, and nothing is filled twice as wide."""
    contours = [square(3, 11, 5, 25, 1), square(3, 9, 5, 25, 4), square(3, 7, 5, 25, 7)]
    found = mask(tmp_path / "s.dcm", [("PTV", "PTV", contours)], "PTV")
    expected = filled((3, 11), (5, 25), (0, 1, 2)) + filled((3, 9), (5, 25), (3, 4, 5))
    np.testing.assert_array_equal(found, expected + filled((3, 7), (5, 25), (6, 7, 8)))


def test_a_gap_between_parts_stays_a_gap(tmp_path):
    found = mask(tmp_path / "s.dcm", [("PTV", "PTV", box((3, 11), (5, 25), (0, 1, 2, 6, 7)))], "PTV")
    np.testing.assert_array_equal(found, filled((3, 11), (5, 25), (0, 1, 2, 6, 7)))


def test_contours_between_the_slices_of_the_ct_are_filled_once(tmp_path):
    """Slices of 1 mm on a CT of 3 mm."""
    contours = [square(3, 11, 5, 25, k) for k in np.arange(2, 5.01, 1 / 3)]
    found = mask(tmp_path / "s.dcm", [("PTV", "PTV", contours)], "PTV")
    np.testing.assert_array_equal(found, filled((3, 11), (5, 25), range(2, 6)))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_any_order_of_the_cts_axes_gives_the_same_place(tmp_path, axes, signs):
    like = sitk.Flip(sitk.PermuteAxes(grid(), axes), [sign < 0 for sign in signs])
    path = write(tmp_path / "s.dcm", [("PTV", "PTV", box((3, 11), (5, 25), range(2, 6)))])
    found = mask_of(read_structures(path)["PTV"], like)
    back = sitk.DICOMOrient(found, "LPS")
    assert back.GetSize() == SIZE
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back).T, filled((3, 11), (5, 25), range(2, 6)))


@pytest.mark.parametrize("axis", [0, 1])
def test_contours_in_another_plane_of_the_grid_are_filled_there(tmp_path, axis):
    contours = [square(2, 7, 3, 8, k, axis) for k in (4, 5)]
    found = mask(tmp_path / "s.dcm", [("PTV", "PTV", contours)], "PTV")
    assert found.sum() == 2 * 25
    assert np.unique(np.argwhere(found)[:, axis]).tolist() == [4, 5]


def test_contours_oblique_to_the_ct_are_refused(tmp_path):
    angle = np.radians(10)
    turned = [(1, 0, 0), (0, np.cos(angle), -np.sin(angle)), (0, np.sin(angle), np.cos(angle))]
    with pytest.raises(MrictError, match=r"PTV: its contours are not parallel to the CT's slices; expected .*"):
        mask(tmp_path / "s.dcm", [("PTV", "PTV", box((3, 11), (5, 25), (3, 4)))], "PTV", grid(direction=turned))


def test_structures_elsewhere_are_refused(tmp_path):
    far = [points + np.array((500, 0, 0)) for points in box((3, 11), (5, 25), (3, 4))]
    with pytest.raises(MrictError, match="PTV: lies outside the CT"):
        mask(tmp_path / "s.dcm", [("PTV", "PTV", far)], "PTV")


@pytest.mark.parametrize("geometry", ["POINT", "OPEN_PLANAR", "OPEN_NONPLANAR"])
def test_open_contours_are_left_out(tmp_path, geometry):
    point = [square(3, 5, 3, 5, 4)[:1] if geometry == "POINT" else square(3, 5, 3, 5, 4)]
    path = write(tmp_path / "s.dcm", [("ISO", "", point, geometry), ("PTV", "PTV", box((3, 11), (5, 25), (3, 4)))])
    assert list(read_structures(path)) == ["PTV"]
    with pytest.raises(MrictError, match="no structure with closed contours"):
        read_structures(write(tmp_path / "t.dcm", [("ISO", "", point, geometry)]))


BOX = box((3, 11), (5, 25), (3, 4))


@pytest.mark.parametrize(
    ("structures", "modality", "message"),
    [
        ([("PTV", "PTV", BOX), ("PTV", "PTV", BOX)], "RTSTRUCT", "two structures are named PTV"),
        ([("PTV", "PTV", [BOX[0][:2]])], "RTSTRUCT", "a contour is damaged"),
        ([("PTV", "PTV", BOX)], "RTPLAN", "not an RTSTRUCT"),
        ([("PTV", "PTV", [])], "RTSTRUCT", "no structure with closed contours"),
        ([], "RTSTRUCT", "no structure with closed contours"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, structures, modality, message):
    with pytest.raises(MrictError, match=message) as found:
        read_structures(write(tmp_path / "s.dcm", structures, modality))
    assert "s.dcm" in str(found.value)
    assert "DOE" not in str(found.value)


def test_another_file_is_no_rtstruct(tmp_path):
    path = tmp_path / "s.dcm"
    path.write_bytes(b"not DICOM")
    with pytest.raises(MrictError, match=r"s\.dcm"):
        read_structures(path)


@pytest.mark.parametrize(
    ("kinds", "target"),
    [
        ({"BODY": "EXTERNAL", "PTV 60": "PTV", "CTV": "CTV"}, "PTV 60"),
        ({"CTV": "CTV", "GTV": "GTV", "EYE": "ORGAN"}, "CTV"),
        ({"Tumour": "GTV"}, "Tumour"),
    ],
)
def test_the_only_target_of_the_first_type_is_found(tmp_path, kinds, target):
    path = write(tmp_path / "s.dcm", [(name, kind, BOX) for name, kind in kinds.items()])
    assert _target_of(read_structures(path), path) == target


@pytest.mark.parametrize(
    "kinds",
    [{"PTV": "", "EYE": "ORGAN"}, {"PTV 1": "PTV", "PTV 2": "PTV", "GTV": "GTV"}],
    ids=["no type", "two of the type"],
)
def test_without_one_target_the_names_are_listed(tmp_path, kinds):
    path = write(tmp_path / "s.dcm", [(name, kind, BOX) for name, kind in kinds.items()])
    with pytest.raises(MrictError, match="which structure is the target") as found:
        _target_of(read_structures(path), path)
    assert all(name in str(found.value) for name in kinds)
    assert "--target" in str(found.value)
