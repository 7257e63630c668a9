"""Plans: what they include and limit, who is subscribed, and what the clock makes of it."""
