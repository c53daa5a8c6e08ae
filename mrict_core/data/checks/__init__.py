"""Checks of a CT: are these HU, slice by slice; does it show what its MR shows?"""
