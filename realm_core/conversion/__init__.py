"""Published REALM models, brought into the store."""
