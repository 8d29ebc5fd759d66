"""Tests of pfimg://, the filesystem inside an image, and of what is built on it."""
