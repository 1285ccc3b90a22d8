"""Fast inference of the embedder."""
