"""Reports: revenue, the audit of the books, forecasts, and past usage at other prices."""
