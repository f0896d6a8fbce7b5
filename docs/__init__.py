"""The code of `make docs`."""
