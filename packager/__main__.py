"""`python -m packager`: the same as the `packager` command."""

from packager.cli import main

main()
