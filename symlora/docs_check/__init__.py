"""Whether what the documentation shows still works: every block, command in the text and link (`make docs-check`)."""
