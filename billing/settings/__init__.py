"""Settings: what the platform, an account and a user have set, what holds for a request, and how one is saved."""
