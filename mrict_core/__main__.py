"""`python -m mrict_core`."""

from mrict_core.cli import main

main()
