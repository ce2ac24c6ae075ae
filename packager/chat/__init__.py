"""Chat templates: rendering them safely, making the canonical one, and its forms for other engines."""
