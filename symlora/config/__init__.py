"""Describe one run: schema, checks, composition from YAML, identity."""
