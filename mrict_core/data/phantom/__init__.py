"""Digital patients: paired MR and CT volumes of heads and pelves, written as NIfTI in the layout of SynthRAD2023.

    spec = PhantomSpec("brain", in_plane_mm=3.6, slice_mm=5.0, supersample=2)
    patient = make_patient("1BA001", seed=0, spec=spec)      # mr, ct, mask, labels, affine
    folders = write_cohort(root, "brain", per_centre=5, seed=0, spec=spec)

`tissues` holds the physical properties, `fields` and `shapes` the tools, `anatomy` the patient's own random numbers,
`head`, `brain` and `pelvis` the anatomy, `scanner` the MR and CT physics of the centres, `cohort` patients and files.
"""

from mrict_core.data.phantom.patients import PhantomPatient, PhantomSpec, make_patient, phantom_ids, write_cohort
from mrict_core.data.phantom.scanner import CENTRES, Centre
from mrict_core.data.phantom.tissues import OUTSIDE, PROPERTIES, Tissue

__all__ = [
    "CENTRES",
    "OUTSIDE",
    "PROPERTIES",
    "Centre",
    "PhantomPatient",
    "PhantomSpec",
    "Tissue",
    "make_patient",
    "phantom_ids",
    "write_cohort",
]
