"""What only the predecessor and files of earlier versions need."""
