"""Flowers that the program draws itself: an image set without any file."""
