"""The formats of image files: what each holds beside its pixels, read and written by hand."""
