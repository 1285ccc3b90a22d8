"""Retrieval metrics and question sets."""
