"""The HTTP API: routes over the same services and views as the command line; no SQL of its own."""
