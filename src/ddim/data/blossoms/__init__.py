"""Flowers drawn by the program itself: an image set without any file."""
