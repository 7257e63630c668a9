"""What apps are told by themselves: events of jobs, balances, limits and periods, delivered at least once."""
