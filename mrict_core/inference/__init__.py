"""Predict a synthetic CT from an MR with a trained generator."""

from mrict_core.inference.synthesizer import Later, Synthesizer, check_store, load_synthesizer, make_synthesizer
from mrict_core.inference.volume import Synthesis, SynthesisOptions, synthesize_volume

__all__ = [
    "Later",
    "Synthesis",
    "SynthesisOptions",
    "Synthesizer",
    "check_store",
    "load_synthesizer",
    "make_synthesizer",
    "synthesize_volume",
]
