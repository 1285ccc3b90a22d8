"""Content-addressed artifacts on any fsspec URL."""
