"""One file per command: argv to values, one call, show."""
