"""Data room: NIfTI pairs in, slices of known geometry and intensity out."""
