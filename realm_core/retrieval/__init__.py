"""Queries in, evidence out: searching a snapshot, and looking up what was found."""
