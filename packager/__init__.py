"""Turn a base model and a fine-tuned adapter into an Ollama model that provably answers as it did in training."""
