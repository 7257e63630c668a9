"""Messages: what may arrive, and what becomes of what cannot be worked on."""
