"""Jobs: from the request to the charge or the refund."""
