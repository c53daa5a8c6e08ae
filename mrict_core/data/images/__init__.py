"""Image files: what a header says, which reading is taken, voxels and their checksums."""
