"""Where models and llama.cpp's converter come from."""
