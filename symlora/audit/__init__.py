"""Audit the SymLoRA paper's printed numbers: data, arithmetic, and one template."""

from symlora.audit.audit import audit_markdown
from symlora.audit.published import Published, read_published

__all__ = ["Published", "audit_markdown", "read_published"]
