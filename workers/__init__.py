"""The processes: what runs, with which pool, on which queues; the command line; the composition root."""
