"""Reports: revenue, the audit of the books, what the future and other prices would bring."""
