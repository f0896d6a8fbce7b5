"""What `make docs` needs."""
