"""From MR to synthetic CT with a trained generator."""

from mrict_core.inference.synthesizer import Synthesizer, check_store, load_synthesizer, variant_of

__all__ = ["Synthesizer", "check_store", "load_synthesizer", "variant_of"]
