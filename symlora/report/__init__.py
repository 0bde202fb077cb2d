"""Report on run folders: tables, figures and pages. Nothing here trains."""
