"""Maximum inner product search behind one Protocol."""
