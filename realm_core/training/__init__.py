"""Masking, featurization, losses, schedule and state of training; plain functions of arrays."""
