"""The stages of a build looked at one by one, once a check has failed."""
