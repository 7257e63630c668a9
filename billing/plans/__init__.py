"""Plans: what they include and limit, who is subscribed, and how subscriptions change with time."""
