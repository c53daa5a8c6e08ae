"""Image files: headers and how they are read, voxels, checksums."""
