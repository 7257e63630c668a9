"""One machine: embedded servers and our own programs under one supervisor."""
