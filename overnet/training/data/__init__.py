"""The images to train on, packed in one file, and the teachers' outputs beside them."""
