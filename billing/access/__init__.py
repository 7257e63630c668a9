"""Who may ask for what: the keys that apps call the HTTP API with."""
