"""The streaming pass: checkpoint and adapter in, every GGUF and merged checkpoint out, each tensor read once."""
