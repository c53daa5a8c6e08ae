"""From two scans to a training pair: registration, grids, masks and a look at each pair."""
