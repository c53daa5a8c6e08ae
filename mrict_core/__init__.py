"""MRICT: learn to synthesise CT from MRI, and say honestly how well."""

__version__ = "0.1.0"
