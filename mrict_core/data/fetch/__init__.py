"""SynthRAD2023 from Zenodo: download and unpacking."""
