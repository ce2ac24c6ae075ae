"""Comparing an engine with the reference: prompts, token ids, distributions, answers."""
