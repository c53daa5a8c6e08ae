"""Code needed only for the predecessor and for files of earlier versions."""
