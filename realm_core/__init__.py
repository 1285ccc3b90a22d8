"""Models, text, storage, indexes and training maths of REALM; never imports Ray."""
