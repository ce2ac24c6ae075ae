"""Bytes to values and back; no process and no socket."""
