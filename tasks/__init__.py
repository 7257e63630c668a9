"""The Celery tasks: a few lines each, which parse ids, open a transaction and call a billing service."""
