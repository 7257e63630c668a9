"""Logs never hold keys, passwords or rows, whoever logged them, in either form, tracebacks included."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from config.logging import SCRUBBED, configure_logging, get_logger, scrub

SECRETS = ("sk-live-0123456789abcdef", "tok_abc.def-ghi", "hunter2", "alice@example.org")
SPOKEN = (
    "key sk-live-0123456789abcdef, Authorization: Bearer tok_abc.def-ghi with more, "
    "at postgresql://mill:hunter2@db.example/mill"
)
ROW = "duplicate key value violates a constraint\nDETAIL:  Key (email)=(alice@example.org) already exists."


@pytest.fixture
def configured() -> Iterator[Callable[..., io.StringIO]]:
    """`configure_logging` into a stream, undone afterwards."""
    root, named = logging.getLogger(), [logging.getLogger(name) for name in ("openai", "sqlalchemy")]
    handlers, levels, before = root.handlers[:], [each.level for each in (root, *named)], structlog.get_config()

    def configure(form: str = "console", level: str = "INFO") -> io.StringIO:
        stream = io.StringIO()
        configure_logging(level, form, stream=stream)
        return stream

    yield configure
    root.handlers[:] = handlers
    for each, was in zip((root, *named), levels, strict=True):
        each.setLevel(was)
    structlog.configure(**before)


def assert_no_secrets(text: str) -> None:
    assert [secret for secret in SECRETS if secret in text] == []


@pytest.mark.parametrize(
    ("text", "expected", "rule"),
    [
        ("key sk-abcdef0123 used", "key [scrubbed] used", "an OpenAI key"),
        ("sk-proj-aB3_dE-6fgh", "[scrubbed]", "a project's key, dashes and all"),
        ("sk-ant-api03-abc_def", "[scrubbed]", "an Anthropic key"),
        ("rk-abcdef pk-abcdef sim-abcdef", "[scrubbed] [scrubbed] [scrubbed]", "other kinds of keys"),
        ("{'api_key': 'sk-abcdef0123'}", "{'api_key': '[scrubbed]'}", "a key in quotes"),
        ("key=sk-abcdef0123,next", "key=[scrubbed],next", "a key before a comma"),
        ("Incorrect API key: sk-abc***********wxyz", "Incorrect API key: sk-abc***********wxyz", "one that is masked"),
        ("Authorization: Bearer abc.def-1~2+3/4= next", "Authorization: Bearer [scrubbed] next", "a bearer token"),
        ("postgresql://mill:hunter2@db:5432/mill", "postgresql://[scrubbed]@db:5432/mill", "a database's password"),
        ("redis://:hunter2@cache:6379/0", "redis://[scrubbed]@cache:6379/0", "a broker's, without a user"),
        ("a://u:p1@x b://u:p2@y", "a://[scrubbed]@x b://[scrubbed]@y", "two addresses"),
        (
            "ERROR: x\nDETAIL:  Key (a)=(b).\nHINT: y",
            "ERROR: x\nDETAIL:[scrubbed]\nHINT: y",
            "a row that PostgreSQL quotes",
        ),
        ("x\nCONTEXT:  COPY t, line 1: b\nnext", "x\nCONTEXT:[scrubbed]\nnext", "a row that COPY quotes"),
        ("risk-averse desk-lamps ask-me", "risk-averse desk-lamps ask-me", "words with dashes"),
        ("sk-1 sk- task-force-alpha", "sk-1 sk- task-force-alpha", "what is too short for a key"),
        ("https://api.example/v1?x=a:b", "https://api.example/v1?x=a:b", "an address without a password"),
        ("http://127.0.0.1:8080/a@b", "http://127.0.0.1:8080/a@b", "a port is no password"),
        ("The bearer of this", "The bearer of this", "a word"),
        ("5 credits at 12:30, mail a@b.c", "5 credits at 12:30, mail a@b.c", "plain text"),
    ],
)
def test_a_text_is_scrubbed_of_what_looks_secret_and_of_nothing_else(text, expected, rule):
    assert expected == scrub(text), rule


@settings(deadline=None)
@given(text=st.text())
def test_scrubbing_twice_is_scrubbing_once(text):
    assert scrub(text) == scrub(scrub(text))


def test_a_password_with_a_slash_is_scrubbed():
    assert "hunt/er2" not in scrub("postgresql://mill:hunt/er2@db/mill")


def test_a_quoted_row_of_several_lines_is_scrubbed_whole():
    scrubbed = scrub("ERROR: x\nDETAIL:  Failing row contains (1, first line\nsecond line of a prompt, 5).")

    assert "second line of a prompt" not in scrubbed


FORMS = ["console", "json"]


@pytest.mark.parametrize("form", FORMS)
def test_an_event_of_ours_is_written_with_its_facts(configured, form):
    stream = configured(form)

    get_logger("tasks.calls").info("call_failed", job_id="7", attempt=2)

    (line,) = stream.getvalue().splitlines()
    assert "call_failed" in line
    assert "tasks.calls" in line
    assert ("job_id=7" if form == "console" else '"job_id": "7"') in line
    assert ("attempt=2" if form == "console" else '"attempt": 2') in line


def test_a_json_line_is_an_object_with_time_level_and_logger(configured):
    stream = configured("json")

    get_logger("tasks.ours").warning("call_failed", model="modèle")
    logging.getLogger("theirs").error("broken %s", "pipe")

    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert ours.pop("timestamp").endswith("Z")
    assert theirs.pop("timestamp").endswith("Z")
    assert ours == {"event": "call_failed", "model": "modèle", "level": "warning", "logger": "tasks.ours"}
    assert theirs == {"event": "broken pipe", "level": "error", "logger": "theirs"}
    assert "modèle" in stream.getvalue()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "log",
    [
        lambda: logging.getLogger("theirs").error(SPOKEN),
        lambda: logging.getLogger("theirs").error("failed: %s %r", SPOKEN, {"key": SPOKEN}),
        lambda: get_logger("tasks.ours").error(SPOKEN),
        lambda: get_logger("tasks.ours").error("failed", why=SPOKEN),
        lambda: get_logger("tasks.ours").error("failed", deep=[{"er": (SPOKEN,)}]),
        lambda: get_logger("tasks.ours").bind(url="postgresql://mill:hunter2@db/mill").error("failed"),
        lambda: logging.getLogger("theirs").error(ROW),
        lambda: get_logger("tasks.ours").error("failed", error=ROW),
    ],
)
def test_no_secret_is_logged_by_whichever_way(configured, form, log):
    stream = configured(form)

    log()

    assert SCRUBBED in stream.getvalue()
    assert_no_secrets(stream.getvalue())


class Quoting(Exception):
    """An error whose text quotes what it should not."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("said", [SPOKEN, ROW])
@pytest.mark.parametrize(
    "log",
    [
        lambda: logging.getLogger("theirs").exception("failed"),
        lambda: logging.getLogger("theirs").error("failed", exc_info=True),
        lambda: get_logger("tasks.ours").exception("failed"),
        lambda: get_logger("tasks.ours").error("failed", exc_info=True),
    ],
)
def test_no_secret_is_logged_in_a_traceback(configured, form, said, log):
    stream = configured(form)

    try:
        try:
            raise ValueError(said)
        except ValueError as cause:
            raise Quoting(said) from cause
    except Quoting:
        log()

    written = stream.getvalue()
    assert "Traceback" in written
    assert "test_no_secret_is_logged_in_a_traceback" in written
    assert SCRUBBED in written
    assert_no_secrets(written)


@pytest.mark.parametrize("form", FORMS)
def test_the_tasks_name_is_on_its_own_lines_and_scrubbed_like_the_rest(configured, form):
    stream = configured(form)

    with structlog.contextvars.bound_contextvars(task="generation.submit", note=SPOKEN):
        get_logger("tasks.ours").info("began")
    get_logger("tasks.ours").info("went on")

    began, went_on = stream.getvalue().splitlines()
    assert "generation.submit" in began
    assert "generation.submit" not in went_on
    assert_no_secrets(stream.getvalue())


def test_a_traceback_is_one_line_of_json(configured):
    stream = configured("json")

    try:
        raise Quoting("plain words")
    except Quoting:
        get_logger("tasks.ours").exception("failed")

    (line,) = stream.getvalue().splitlines()
    assert "Quoting: plain words" in json.loads(line)["exception"]


@pytest.mark.parametrize("said", [ROW, "Authorization: Bearer tok_abc.def-ghi", "CONTEXT:  COPY t, line 1"])
def test_a_scrubbed_json_line_is_still_json(configured, said):
    stream = configured("json")

    logging.getLogger("theirs").error("failed", exc_info=Quoting(said))
    get_logger("tasks.ours").error("failed", why=said)

    for line in stream.getvalue().splitlines():
        assert json.loads(line)["level"] == "error"


@pytest.mark.parametrize(
    ("level", "ours", "celerys", "others"),
    [("DEBUG", "abc", "bc", "c"), ("info", "bc", "bc", "c"), ("WARNING", "c", "c", "c"), ("error", "", "", "")],
)
def test_the_level_is_for_us_and_libraries_tell_less(configured, level, ours, celerys, others):
    told = {}
    for log in (get_logger("tasks.ours"), logging.getLogger("celery.beat"), logging.getLogger("theirs")):
        stream = configured(level=level)
        log.debug("said a")
        log.info("said b")
        log.warning("said c")
        told[log.name] = "".join(line.split("said ")[1][0] for line in stream.getvalue().splitlines())

    assert told == {"tasks.ours": ours, "celery.beat": celerys, "theirs": others}


CONTENT = {"json_data": {"prompt": "planted"}}


@pytest.mark.parametrize(
    "name",
    [
        *("httpx2", "httpcore2.http11", "openai._base_client", "kombu.transport.redis", "amqp", "redis.event"),
        *("sqlalchemy.engine.Engine", "sqlalchemy.pool", "alembic.runtime", "urllib3.connectionpool", "asyncio"),
        *("aiohttp.access", "tornado.access", "multiprocessing", "any.library.of.tomorrow", "tasksfoo", "root"),
    ],
)
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO])
def test_what_a_library_says_below_a_warning_is_not_written(configured, name, level):
    stream = configured(level="DEBUG")
    log = logging.getLogger(name)

    log.log(level, "Request options: %s", CONTENT)
    log.warning("retrying")

    assert "Request options" not in stream.getvalue()
    assert "retrying" in stream.getvalue()


@pytest.mark.parametrize("name", ["celery.pool", "celery.worker.strategy", "celery.bootsteps"])
def test_what_celery_says_at_debug_is_not_written(configured, name):
    stream = configured(level="DEBUG")

    logging.getLogger(name).debug("TaskPool: Apply %s (args:%s kwargs:%s)", "trace", [CONTENT], CONTENT)

    assert stream.getvalue() == ""


def test_a_library_that_sets_its_own_level_is_not_written_either(configured):
    stream = configured(level="WARNING")
    log = logging.getLogger("openai")
    log.setLevel(logging.DEBUG)

    log.debug("Request options: %s", CONTENT)

    assert stream.getvalue() == ""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["celery.worker.request", "kombu.transport.redis", "theirs"])
@pytest.mark.parametrize(
    ("said", "given", "shown"),
    [
        ("Could not restore message: %r", (CONTENT,), "Could not restore message: '<dict>'"),
        ("rows: %s and %s", ([CONTENT], ("planted",)), "rows: <list> and <tuple>"),
        ("body %s, item %s", (b"planted", {"planted"}), "body <bytes>, item <set>"),
        ("Task %(name)s failed with %(args)s", ({"name": "submit", "args": [CONTENT]},), "submit failed with <list>"),
        ("%s after %d s: %s", ("redis", 5, OSError("refused")), "redis after 5 s: refused"),
        ("%r of %s", (KeyError("x"), None), "KeyError('x') of None"),
    ],
)
def test_a_librarys_warning_shows_plain_values_and_no_content(configured, form, name, said, given, shown):
    stream = configured(form)

    logging.getLogger(name).critical(said, *given)

    assert shown in stream.getvalue()
    assert "planted" not in stream.getvalue()


def test_whoever_speaks_by_structlog_itself_is_written_like_the_rest(configured):
    stream = configured(level="WARNING")

    structlog.get_logger("theirs").info("quiet")
    structlog.get_logger("theirs").warning("said", why=SPOKEN)

    (line,) = stream.getvalue().splitlines()
    assert "said" in line
    assert_no_secrets(line)


# --- In somebody else's program ---


def test_what_we_say_is_a_record_of_the_standard_logging_with_its_facts(caplog):
    with caplog.at_level(logging.INFO):
        get_logger("tasks.pipeline").warning("publish_failed", jobs=["7"], why=SPOKEN)
        get_logger("tasks.pipeline").debug("not asked for")

    (record,) = caplog.records
    assert (record.name, record.levelname) == ("tasks.pipeline", "WARNING")
    assert record.getMessage().startswith("publish_failed jobs=['7'] why='key [scrubbed]")
    assert record.facts == {"event": "publish_failed", "jobs": ["7"], "why": scrub(SPOKEN)}
    assert_no_secrets(record.getMessage())


def test_a_percent_sign_in_what_we_say_is_one(caplog):
    get_logger("tasks.pipeline").warning("100 %s", share="5 %d")

    assert caplog.records[0].getMessage() == "100 %s share='5 %d'"


def test_configuring_twice_writes_each_line_once(configured):
    first, second = configured(), configured()

    logging.getLogger("theirs").error("once")

    assert (first.getvalue().count("once"), second.getvalue().count("once")) == (0, 1)
