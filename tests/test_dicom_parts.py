"""A series that is not one image, and images that are no magnitude of a signal: named, refused, and how to choose."""

from __future__ import annotations

import re

import numpy as np
import pydicom
import pytest
from dicom_files import IDENTIFIERS, add_private, new_uids, retag, write_enhanced, write_mr_series
from pydicom.dataset import Dataset
from test_dicom_privacy import found_in
from test_dicom_read import grid, stored

from mrict_core.data.dicom import read_series
from mrict_core.errors import MrictError

MAGNITUDE = ["ORIGINAL", "PRIMARY", "M"]
SLICES = 8


def image_type(*words):
    return ["ORIGINAL", "PRIMARY", *words]


# what varies: the values of two images in one series, and what the message calls them
CLASSIC = {
    "EchoTime": ((12, 100), ("12", "100")),
    "EchoNumbers": ((1, 2), ("1", "2")),
    "InversionTime": ((900, 2500), ("900", "2500")),
    "RepetitionTime": ((500, 5000), ("500", "5000")),
    "FlipAngle": ((3, 15), ("3", "15")),
    "MagneticFieldStrength": ((1.5, 3), ("1.5", "3")),
    "PixelBandwidth": ((130, 260), ("130", "260")),
    "DiffusionBValue": ((0, 1000), ("0", "1000")),
    "TemporalPositionIdentifier": ((1, 2), ("1", "2")),
    "TriggerTime": ((0, 400), ("0", "400")),
    "ScanningSequence": (("SE", "GR"), ("SE", "GR")),
    "SequenceVariant": ((["SK", "SP"], ["SK"]), ("SP", "none")),
    "ScanOptions": ((["FS"], ["PFP"]), ("A", "B")),
    "MRAcquisitionType": (("2D", "3D"), ("2D", "3D")),
    "SliceThickness": ((2.5, 5), ("2.5", "5")),
    "NumberOfAverages": ((1, 4), ("1", "4")),
    "EchoTrainLength": ((1, 15), ("1", "15")),
    "SeriesNumber": ((3, 4), ("3", "4")),
    "ProtocolName": (("John protocol", "Johns other"), ("A", "B")),
    "PatientID": (("P1", "P2"), ("A", "B")),
    "DeviceSerialNumber": (("4711", "4712"), ("A", "B")),
    "ImagedNucleus": (("1H", "23Na"), ("A", "B")),
    "InPlanePhaseEncodingDirection": (("ROW", "COL"), ("ROW", "COL")),
    "SequenceName": (("*ep_b0", "*ep_b1000#1"), ("A", "B")),
    "ReceiveCoilName": (("HEAD", "BODY"), ("B", "A")),
    "ContrastBolusAgent": (("Gadolinium", None), ("A", "none")),
    "DiffusionGradientOrientation": (([1, 0, 0], [0, 1, 0]), ("B", "A")),
    "PatientPosition": (("HFS", "FFS"), ("HFS", "FFS")),
    "ManufacturerModelName": (("One", "Other"), ("A", "B")),
    "ImageType water, fat": ((image_type("W"), image_type("F")), ("W", "F")),
    "ImageType in, opposed phase": ((image_type("M", "IN PHASE"), image_type("M", "OPP PHASE")), None),
    "ImageType filtered": ((image_type("M", "ND"), image_type("M", "ND", "NORM")), ("none", "NORM")),
    "ImageType unknown words": ((image_type("M", "DOE^JOHN"), image_type("M", "HOUSE")), ("A", "B")),
}
ENHANCED = {
    "EchoTime": ("EffectiveEchoTime", (12, 100), ("12", "100")),
    "EchoTime of converted images": ("EchoTime", (12, 100), ("12", "100")),
    "InversionTime": ("InversionTimes", (900, 2500), ("900", "2500")),
    "RepetitionTime": ("RepetitionTime", (500, 5000), ("500", "5000")),
    "FlipAngle": ("FlipAngle", (3, 15), ("3", "15")),
    "DiffusionBValue": ("DiffusionBValue", (0, 1000), ("0", "1000")),
    "DiffusionDirectionality": ("DiffusionDirectionality", ("DIRECTIONAL", "ISOTROPIC"), ("DIRECTIONAL", "ISOTROPIC")),
    "TemporalPositionIdentifier": ("TemporalPositionIndex", (1, 2), ("1", "2")),
    "StackID": ("StackID", ("1", "2"), ("1", "2")),
    "TriggerTime": ("NominalCardiacTriggerDelayTime", (10, 400), ("10", "400")),
    "PixelBandwidth": ("PixelBandwidth", (130, 260), ("130", "260")),
    "ReceiveCoilName": ("ReceiveCoilName", ("BODY", "HEAD"), ("A", "B")),
    "ContrastBolusAgent": ("ContrastBolusAgentAdministered", ("NO", "YES"), ("A", "B")),
    "NumberOfAverages": ("NumberOfAverages", (1, 4), ("1", "4")),
    "InPlanePhaseEncodingDirection": ("InPlanePhaseEncodingDirection", ("ROW", "COLUMN"), ("ROW", "COLUMN")),
    "AcquisitionContrast": ("AcquisitionContrast", ("T1", "T2"), ("A", "B")),
    "ImageType": ("FrameType", (image_type("WATER", "NONE"), image_type("FAT", "NONE")), ("WATER", "FAT")),
}
PLACES = (7, 5, SLICES)


def series_of_two(kind, folder, name, values, interleaved):
    """Write two images in one series: both whole, or `interleaved`, every fourth slice of the second one."""
    one, two = stored(PLACES, 1), stored(PLACES, 2)
    second = np.arange(SLICES) % 4 == 3
    if kind == "enhanced":
        both = np.where(second, two, one) if interleaved else np.concatenate([one, two], axis=2)
        which = second if interleaved else np.arange(2 * SLICES) >= SLICES
        folder.mkdir()
        write_enhanced(
            *(folder / "multi", both, grid()),
            place=lambda k: k % SLICES,
            facts=lambda k: {ENHANCED[name][0]: values[int(which[k])]},
        )
        return one, two
    keyword, uids = name.split()[0], new_uids()
    if interleaved:
        array = np.where(second, two, one)
        files = write_mr_series(folder, array, grid(), uids=uids, **{keyword: lambda k: values[int(second[k])]})
        return [retag(f, **{keyword: None}) for f, s in zip(files, second, strict=True) if values[int(s)] is None]
    for array, value, prefix in ((one, values[0], "A"), (two, values[1], "B")):
        tags = {} if value is None else {keyword: value}
        write_mr_series(folder, array, grid(), uids=uids, prefix=prefix, **tags)
    return one, two


CASES = [
    *[("classic", name, values, labels) for name, (values, labels) in CLASSIC.items()],
    *[("enhanced", name, values, labels) for name, (_, values, labels) in ENHANCED.items()],
]


@pytest.mark.parametrize(("kind", "name", "values", "labels"), CASES, ids=lambda v: str(v)[:40])
def test_slices_of_two_images_are_named_and_either_can_be_chosen(tmp_path, kind, name, values, labels):
    fact = name.split()[0]
    labels = labels or ("IN_PHASE", "OPP_PHASE")
    series_of_two(kind, tmp_path / "mixed", name, values, interleaved=True)
    with pytest.raises(MrictError, match=f"several images in one series: slices of 2 {fact}: ") as error:
        read_series(tmp_path / "mixed")
    for label, count in zip(labels, (6, 2), strict=True):
        assert f"{label} ({count})" in str(error.value)
    arrays = series_of_two(kind, tmp_path / "whole", name, values, interleaved=False)
    with pytest.raises(MrictError, match=f"slices of 2 {fact}: ") as error:
        read_series(tmp_path / "whole")
    assert found_in(str(error.value)) == []
    typed = dict(re.findall(r"--series (\w{8}/\w+=(\S+))", str(error.value)))
    assert set(typed.values()) == set(labels)
    for text, label in typed.items():
        volume = read_series(tmp_path / "whole", text)
        np.testing.assert_array_equal(volume.array, arrays[labels.index(label)])
        assert f"read: {fact}={label}, {SLICES} of the {2 * SLICES} images of its series" in volume.notes
        assert not any("numbered" in remark for remark in volume.remarks)
    with pytest.raises(MrictError, match=rf"no part {fact}=nonsense in series \w{{8}}; it has {fact}: "):
        read_series(tmp_path / "whole", text.split("/")[0] + f"/{fact}=nonsense")


HARMLESS = {
    "rounded echo times": {"EchoTime": lambda k: 4.6 + 0.01 * (k % 3)},
    "rounded repetition times": {"RepetitionTime": lambda k: 2000 + 3 * k},
    "repetition of a pulse": {"RepetitionTime": lambda k: 700 * 1.2**k},
    "trigger times slice by slice": {"TriggerTime": lambda k: 75.0 * k},
    "acquisitions of interleaved slices": {"AcquisitionNumber": lambda k: 1 + k % 2},
    "times": {"AcquisitionTime": lambda k: f"0815{k:02d}", "ContentTime": lambda k: f"0816{k:02d}"},
    "windows": {"WindowCenter": lambda k: 500 + k, "WindowWidth": lambda k: 900 + k},
    "heating": {"SAR": lambda k: 0.1 * k, "ImagingFrequency": lambda k: 127.7 + 1e-4 * k},
    "field strength": {"MagneticFieldStrength": lambda k: 1.5 if k % 2 else 1.494},
    "places and comments": {"SliceLocation": lambda k: k, "ImageComments": lambda k: f"slice {k}"},
    "descriptions": {"SeriesDescription": lambda k: f"slice {k}"},
    "case of words": {"ScanningSequence": lambda k: "se" if k % 2 else "SE"},
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_varies_over_the_slices_of_one_image_is_let_pass_without_a_word(tmp_path, case):
    write_mr_series(tmp_path, stored(PLACES), grid(), **HARMLESS[case])
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, stored(PLACES))
    assert volume.remarks == ()


def test_two_slices_may_each_have_their_own_trigger_time(tmp_path):
    write_mr_series(tmp_path, stored((7, 5, 2)), grid(), TriggerTime=lambda k: 75.0 * k)
    assert read_series(tmp_path).remarks == ()


def test_values_of_each_slice_vary_without_a_word_in_enhanced_images(tmp_path):
    write_enhanced(
        *(tmp_path / "multi", stored(PLACES), grid(), lambda k: (k + 1, -k)),
        facts=lambda k: {"NominalCardiacTriggerDelayTime": 75.0 * k, "EffectiveEchoTime": 4.6 + 0.01 * (k % 3)},
    )
    assert read_series(tmp_path).remarks == ()


def test_what_a_vendor_keeps_in_groups_of_its_own_is_not_read(tmp_path):
    """Philips puts the classic header of every frame there, its phase images' too."""
    file = write_enhanced(tmp_path / "multi.dcm", stored(PLACES), grid())
    dataset = pydicom.dcmread(file)
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        classic = Dataset()
        classic.EchoTime, classic.ImageType = 12 * (k % 2), image_type("P")
        frame.private_block(0x2005, "Philips MR Imaging DD 005", create=True).add_new(0x0F, "SQ", [classic])
    dataset.save_as(file)
    assert read_series(file).remarks == ()


@pytest.mark.parametrize("kind", ["classic", "enhanced"])
def test_several_times_of_one_place_are_told_apart_by_their_acquisition(tmp_path, kind):
    uids, arrays = new_uids(), [stored(PLACES, seed) for seed in range(3)]
    if kind == "enhanced":
        facts = {"facts": lambda k: {"FrameAcquisitionNumber": 1 + k // SLICES}}
        write_enhanced(tmp_path / "m", np.concatenate(arrays, 2), grid(), place=lambda k: k % SLICES, **facts)
    else:
        for n, array in enumerate(arrays):
            write_mr_series(tmp_path, array, grid(), uids=uids, prefix=f"T{n}", AcquisitionNumber=n + 1)
    with pytest.raises(MrictError, match=r"slices of 3 AcquisitionNumber: 1 \(8\), 2 \(8\), 3 \(8\); ") as error:
        read_series(tmp_path)
    name = re.search(r"--series (\w{8})/", str(error.value)).group(1)
    for n, array in enumerate(arrays):
        np.testing.assert_array_equal(read_series(tmp_path, f"{name}/acquisitionnumber={n + 1}.0").array, array)


def test_enhanced_files_of_one_series_are_told_apart_by_their_number(tmp_path):
    uids = new_uids()
    for n in (1, 2):
        write_enhanced(tmp_path / f"{n}.dcm", stored(PLACES, n), grid(), uids=uids, InstanceNumber=n)
    with pytest.raises(MrictError, match=r"slices of 2 InstanceNumber: 1 \(8\), 2 \(8\)") as error:
        read_series(tmp_path)
    text = re.search(r"--series (\S+=2)", str(error.value)).group(1)
    np.testing.assert_array_equal(read_series(tmp_path, text).array, stored(PLACES, 2))


def test_images_that_no_tag_tells_apart(tmp_path):
    array = np.concatenate([stored(PLACES, 1), stored(PLACES, 2)], axis=2)
    write_enhanced(tmp_path / "multi.dcm", array, grid(), place=lambda k: k % SLICES)
    with pytest.raises(MrictError, match=r"several images of one place: multi\.dcm frame 1 and .* frame 9 \(8 such"):
        read_series(tmp_path)


def test_a_part_of_a_part(tmp_path):
    uids, arrays = new_uids(), {}
    for echo in (12, 100):
        for word in "WF":
            arrays[echo, word] = stored(PLACES, echo + ord(word))
            tags = {"EchoTime": echo, "ImageType": image_type(word), "prefix": f"{word}{echo}"}
            write_mr_series(tmp_path, arrays[echo, word], grid(), uids=uids, **tags)
    with pytest.raises(MrictError, match=r"2 EchoTime: .* 2 ImageType: ") as error:
        read_series(tmp_path)
    first = re.search(r"--series (\S+=100)", str(error.value)).group(1)
    with pytest.raises(MrictError, match="2 ImageType: ") as error:
        read_series(tmp_path, first)
    text = re.search(r"--series (\S+=W)", str(error.value)).group(1)
    np.testing.assert_array_equal(read_series(tmp_path, text).array, arrays[100, "W"])


def test_several_stacks_are_chosen_by_their_number(tmp_path):
    uids = new_uids()
    write_mr_series(tmp_path, stored(PLACES), grid(), uids=uids)
    write_mr_series(tmp_path, stored((5, 4, 3)), grid(np.eye(3)[[1, 2, 0]]), uids=uids, prefix="COR")
    with pytest.raises(MrictError, match=r"slices do not fit together: .* one stack of parallel slices") as error:
        read_series(tmp_path)
    name = re.search(r"--series (\w{8})/Stack=1 or --series \1/Stack=2$", str(error.value)).group(1)
    assert [read_series(tmp_path, f"{name}/Stack={n}").shape for n in (1, 2)] == [PLACES, (5, 4, 3)]


VENDORS = {
    "Siemens": (0x0019, "SIEMENS MR HEADER", 0x0C, "IS", (0, 1000)),
    "GE": (0x0043, "GEMS_PARM_01", 0x39, "IS", ([1000000000, 8, 0, 0], [1000001000, 8, 0, 0])),
}


@pytest.mark.parametrize("vendor", VENDORS)
def test_b_values_of_vendors(tmp_path, vendor):
    *place, values = VENDORS[vendor]
    for k, file in enumerate(write_mr_series(tmp_path, stored(PLACES), grid())):
        add_private(file, *place, values[k % 4 == 3])
    with pytest.raises(MrictError, match=r"slices of 2 DiffusionBValue: 0 \(6\), 1000 \(2\)"):
        read_series(tmp_path)


def test_the_component_of_ge(tmp_path):
    for n, what in enumerate((None, "a phase image", "a real part", "an imaginary part")):
        for file in write_mr_series(tmp_path / str(n), stored(PLACES), grid(), ImageType=image_type("OTHER")):
            add_private(file, 0x0043, "GEMS_PARM_01", 0x2F, "SS", n)
        if what is None:
            assert read_series(tmp_path / str(n)).remarks == ()
            continue
        with pytest.raises(MrictError, match=what):
            read_series(tmp_path / str(n))


NO_SIGNAL = {
    "a phase image": [["P"], ["P", "ND"], ["PHASE MAP", "P", "FFE"], ["PHASE"]],
    "an imaginary part": [["I"], ["I_FFE", "I", "FFE"], ["IMAGINARY"]],
    "a real part": [["R"], ["R_IR", "R", "IR"], ["REAL"]],
    "a map of a quantity": [
        *(["DIFFUSION", "ADC"], ["ADC_UNSPECIFIED", "ADC"], ["DIFFUSION", "FA", "ND"], ["T1 MAP"], ["T2_STAR MAP"]),
        *(["B0 MAP", "B0"], ["FIELD_MAP"], ["R2_STAR"], ["PERFUSION", "RCBV"], ["TTP"], ["FAT_FRACTION"], ["PDFF"]),
        *(["VELOCITY MAP"], ["METABOLITE_MAP"], ["QSM"]),
    ],
    "a projection": [["PROJECTION IMAGE", "M"], ["M", "MIP"], ["MNIP"], ["MAX_IP"], ["MIN_IP"], ["VOLUME_RENDER"]],
    "a difference or ratio of images": [["SUB"], ["M", "SUBTRACTION"], ["RATIO"]],
}


@pytest.mark.parametrize("words", [(what, w) for what, all_ in NO_SIGNAL.items() for w in all_], ids=str)
def test_what_is_no_magnitude_is_refused(tmp_path, words):
    what, kind = words
    write_mr_series(tmp_path / "classic", stored(PLACES), grid(), ImageType=["DERIVED", "PRIMARY", *kind])
    write_enhanced(
        *(tmp_path / "multi.dcm", stored(PLACES), grid()), facts=lambda k: {"FrameType": ["DERIVED", "PRIMARY", *kind]}
    )
    for path in ("classic", "multi.dcm"):
        with pytest.raises(MrictError, match=rf": {what}; expected magnitudes; give the magnitude series$"):
            read_series(tmp_path / path)


def test_projections_of_enhanced_images(tmp_path):
    facts = {"facts": lambda k: {"VolumeBasedCalculationTechnique": "MAX_IP"}}
    write_enhanced(tmp_path / "multi.dcm", stored(PLACES), grid(), **facts)
    with pytest.raises(MrictError, match="a projection; expected magnitudes"):
        read_series(tmp_path)


@pytest.mark.parametrize("component", ["PHASE", "REAL", "IMAGINARY"])
def test_components_of_enhanced_images(tmp_path, component):
    facts = {"facts": lambda k: {"ComplexImageComponent": component if k < SLICES else "MAGNITUDE"}}
    write_enhanced(tmp_path / "one.dcm", stored(PLACES), grid(), **facts)
    with pytest.raises(MrictError, match="expected magnitudes"):
        read_series(tmp_path / "one.dcm")
    both = np.concatenate([stored(PLACES, 1), stored(PLACES, 2)], axis=2)
    write_enhanced(tmp_path / "two.dcm", both, grid(), place=lambda k: k % SLICES, **facts)
    with pytest.raises(MrictError, match=rf"2 ComplexImageComponent: .*{component} \(8\)") as error:
        read_series(tmp_path / "two.dcm")
    (text,) = re.findall(r"--series (\S+)", str(error.value))  # only what can be read is offered
    np.testing.assert_array_equal(read_series(tmp_path / "two.dcm", text).array, stored(PLACES, 2))


TAKEN = {
    "magnitude": (MAGNITUDE, ""),
    "of a weighting": (image_type("T1", "NONE"), ""),
    "water": (["DERIVED", "PRIMARY", "DIXON", "WATER"], ""),
    "opposed phase": (["DERIVED", "PRIMARY", "OPP_PHASE"], ""),
    "reformatted": (["DERIVED", "SECONDARY", "MPR"], ""),
    "trace-weighted": (["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND"], "its ImageType contains TRACEW"),
    "perhaps a map": (["DERIVED", "PRIMARY", "M", "T1"], "its ImageType contains T1"),
    "of an unknown way": (["DERIVED", "SECONDARY", "DOE^JOHN"], "its ImageType does not say how"),
}


@pytest.mark.parametrize("case", TAKEN)
def test_derived_magnitudes_are_taken_and_remarked(tmp_path, case):
    words, remark = TAKEN[case]
    write_mr_series(tmp_path, stored(PLACES), grid(), ImageType=words)
    remarks = read_series(tmp_path).remarks
    assert len(remarks) == bool(remark)
    assert all(r.startswith(f"a derived image ({remark})") for r in remarks)


def test_identifiers_among_what_varies_are_not_quoted(tmp_path):
    tags = {k: (lambda value: lambda n: value if n % 4 else "X")(v) for k, v in IDENTIFIERS.items() if "Date" not in k}
    tags |= {"ReceiveCoilName": tags["PatientName"], "SequenceName": tags["PatientID"]}
    del tags["SeriesDescription"]
    write_mr_series(tmp_path, stored(PLACES), grid(), **tags)
    with pytest.raises(MrictError, match=r"2 ReceiveCoilName: A \(6\), B \(2\)") as error:
        read_series(tmp_path)
    assert found_in(str(error.value)) == []
