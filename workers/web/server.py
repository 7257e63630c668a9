"""The process of the HTTP API."""

from __future__ import annotations

import uvicorn

from workers import bootstrap
from workers.processes import listen
from workers.web.app import make_app

CONNECTIONS = 40
"""Of the database, as many as there are threads: one that waits holds none."""
KEEP_ALIVE_S = 75
STOP_WITHIN_S = 70
"""As long as a request may wait for a job, and a little more."""


def run() -> None:
    """Serve until told to stop; raises ConfigurationError when its port is taken."""
    settings = bootstrap.server("api", pool_size=CONNECTIONS // 2)
    listener = listen(settings)
    config = uvicorn.Config(
        make_app(),
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_WITHIN_S,
        # Addresses of clients are logged nowhere: no header of theirs is believed.
        proxy_headers=False,
    )
    uvicorn.Server(config).run(sockets=[listener])
