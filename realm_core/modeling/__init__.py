"""The REALM model family."""
