"""Plain, readable implementations of definitions and procedures, to compare the fast ones with."""
