"""The runs, one file each, and the command line."""
