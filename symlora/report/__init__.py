"""From run folders and published numbers to tables, figures and an audit. Nothing here trains."""
