"""The dataset cache: patients prepared once as memory-mapped slices."""
