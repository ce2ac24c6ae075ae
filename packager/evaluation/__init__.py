"""`packager eval`: a packaged model and its reference answer the user's rows, and their answers are scored."""
