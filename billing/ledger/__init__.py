"""The ledger: accounts, and every change of a balance with the row that explains it."""
