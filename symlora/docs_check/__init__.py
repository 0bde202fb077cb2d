"""Whether what the documentation shows still works: every block of commands or code, every link (`make docs-check`)."""
