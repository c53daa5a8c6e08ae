"""A published model's network as ONNX, checked by onnxruntime."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import torch

from mrict_core.errors import MrictError
from mrict_core.files import atomic_path
from mrict_core.models.export import Example, Original, check_equal, difference_hu
from mrict_core.paths import shown

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def write_onnx(original: Original, example: Example, target: Path) -> tuple[float, bool]:
    """Write an ONNX file; return the largest difference from the model in HU, and whether image sides may change.

    Rows and columns are dynamic, in multiples of what the network needs; of a network for one size, they are those of
    its canvas. Raises MrictError, with nothing written, if it cannot be exported or differs.
    """
    program, dynamic = _program(original)
    program.model.metadata_props.update(original.metadata())
    with atomic_path(target) as temporary:
        program.save(temporary)
        difference = _difference(temporary, original, example, dynamic)
        check_equal(difference, target, example)
    return difference, dynamic


def _program(original: Original) -> tuple[torch.onnx.ONNXProgram, bool]:
    """Return the network as an ONNX program, and whether its image sides are dynamic."""
    dim, unit = torch.export.Dim, original.multiple
    batch = {0: dim("batch")}
    free = {2: unit * dim("rows"), 3: unit * dim("cols")}
    for sides in (free, {}) if _takes_other_sides(original) else ({},):
        with contextlib.suppress(torch.onnx.OnnxExporterError), warnings.catch_warnings(action="ignore"):
            return _exported(original, batch | sides), bool(sides)
    name = original.facts.variant
    raise MrictError(
        f"{name}: torch cannot write its network as ONNX; expected operations that ONNX has; use --bundle instead"
    )


@torch.inference_mode()
def _takes_other_sides(original: Original) -> bool:
    """Return whether the network takes an image larger than its canvas."""
    size = original.facts.size
    try:
        original.network(torch.zeros(1, original.channels, size + original.multiple, size))
    except RuntimeError:  # torch's for shapes that do not fit
        return False
    return True


def _exported(original: Original, dynamic: dict[int, object]) -> torch.onnx.ONNXProgram:
    size = original.facts.size
    mr = torch.zeros(2, original.channels, size, size)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress
        return torch.onnx.export(
            original.network,
            (mr,),
            dynamo=True,
            input_names=["mr"],
            output_names=["hu"],
            dynamic_shapes=(dynamic,),
            verbose=False,
        )


def _difference(path: Path, original: Original, example: Example, dynamic: bool) -> float:
    """Return the largest difference in HU on the example's slices and, of dynamic sides, on a larger canvas."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no class of its own for all its errors
        reason = " ".join(str(error).split())[:120]
        raise MrictError(
            f"{shown(path)}: onnxruntime cannot read it ({reason}); expected a valid file; update onnxruntime"
        ) from None
    mr = example.slices(original)
    inputs = [mr]
    if dynamic:
        inputs.append(np.pad(mr[:1], ((0, 0), (0, 0), (0, original.multiple), (0, 0)), constant_values=-1))
    return difference_hu(original, lambda x: session.run(None, {"mr": x})[0], inputs)
