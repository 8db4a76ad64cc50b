"""Training data: formats, checks, and what of it a model learns from."""
