"""The process of the HTTP API."""

from __future__ import annotations

import socket

import uvicorn

from config.settings import ConfigurationError, Settings
from workers import bootstrap
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


def listen(settings: Settings) -> socket.socket:
    """The socket on which it listens; raises ConfigurationError when another program has its port."""
    try:
        return socket.create_server((settings.api_address, settings.api_port), backlog=2_048)
    except OSError as error:
        raise ConfigurationError(
            f"The API cannot listen on {settings.api_address}:{settings.api_port} ({error.strerror}): set "
            "CREDITMILL_API_PORT to a free port."
        ) from None
