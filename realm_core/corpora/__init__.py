"""Readers of source formats: each turns a file into documents."""
