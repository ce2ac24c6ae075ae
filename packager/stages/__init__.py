"""The steps of a build, one verb per file: a frozen job in, frozen artifacts out. Stages do not know each other."""
