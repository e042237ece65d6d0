from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from ml_project_template.utils.secrets import (
    SecretFilter,
    argument_secrets,
    find_secrets,
    public_url,
    redact,
    redact_mapping,
    remember_secrets,
)


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "DB_PASSWORD",
        "dbPassword",
        "api_key",
        "apiKey",
        "apikey",
        "aws-secret-access-key",
        "AWS_ACCESS_KEY_ID",
        "hf.token",
        "credentials",
    ],
)
def test_a_value_under_a_telling_key_is_a_secret(key: str) -> None:
    assert "hunter22" in find_secrets({"deep": [{key: "hunter22"}]}, {})
    assert "hunter22" in find_secrets(None, {key: "hunter22"})


@pytest.mark.parametrize("key", ["max_tokens", "tokenizer", "keyboard", "author", "primary_key"])
def test_a_key_that_only_looks_similar_is_none(key: str) -> None:
    assert find_secrets({key: "ordinary"}, {key: "ordinary"}) == set()


def test_values_that_would_blot_out_ordinary_text_are_left_out() -> None:
    config = {"password": "abc", "token": True, "secret": "none", "api_key": None}
    assert find_secrets(config, {"USE_TOKEN": "false"}) == set()


def test_numbers_can_be_passwords() -> None:
    assert "123456" in find_secrets({"password": 123456}, {})


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("postgresql://ann:s3cr3t@db:5432/runs", "s3cr3t"),
        ("see http://ann:p@ss@host/x for more", "p@ss"),
        ("https://ghp_0123456789abcdef0123@github.com/x", "ghp_0123456789abcdef0123"),
    ],
)
def test_passwords_inside_urls_are_secrets_wherever_they_stand(url: str, secret: str) -> None:
    assert secret in find_secrets({"tracking": {"uris": [url]}}, {})
    assert secret in find_secrets(None, {"DATABASE": url})


@pytest.mark.parametrize("password", ["hunter/22", "hun?ter22", "hun#ter22", "h/u?n#ter22"])
@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "mysql+pymysql", "mariadb", "ORACLE"])
def test_passwords_of_databases_may_hold_what_ends_a_host_elsewhere(
    scheme: str, password: str
) -> None:
    url = f"{scheme}://ann:{password}@db:5432/runs"
    assert password in find_secrets({"tracking": {"uri": url}}, {})
    assert password not in redact(f"can't open {url}", find_secrets(None, {"STORAGE": url}))
    assert public_url(url) == f"{scheme}://db:5432/runs"


def test_a_url_without_a_password_holds_no_secret() -> None:
    urls = ["http://localhost:5000/a@b", "s3://bucket/key", "http://ann@host"]
    urls += ["postgresql://ann@host/runs", "sqlite:////data/a@b.db", "postgresql://host:5432/x"]
    assert find_secrets({"urls": urls}, {}) == set()


def test_quoted_and_escaped_spellings_are_found_too() -> None:
    found = find_secrets({"password": 'a/b"c d'}, {})
    text = 'a/b"c d | a%2Fb%22c%20d | a/b\\"c d'
    assert redact(text, found) == "*** | *** | ***"


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_SERVICE_TOKEN", "tok-98765")
    assert "tok-98765" in find_secrets(None)


def test_a_secret_inside_a_longer_one_does_not_leave_the_rest() -> None:
    assert redact("x longsecret y", {"long", "longsecret"}) == "x *** y"


def test_a_mapping_is_copied_with_its_secrets_masked() -> None:
    config = {
        "url": "http://ann:s3cr3t@h",
        "password": "abc",
        "seed": 0,
        "pin": 123456,
        "on": True,
        "list": ("s3cr3t", None, 1.5),
    }
    assert redact_mapping(config, {"s3cr3t", "123456"}) == {
        "url": "http://ann:***@h",
        "password": "***",
        "seed": 0,
        "pin": "***",
        "on": True,
        "list": ["***", None, 1.5],
    }
    assert config["password"] == "abc"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("data/iris.csv", "data/iris.csv"),
        ("a@b.csv", "a@b.csv"),
        ("s3://bucket/a@b.csv", "s3://bucket/a@b.csv"),
        ("https://ann:pw@host/x.csv", "https://host/x.csv"),
        ("https://ann:p@w@host:8/x", "https://host:8/x"),
        ("https://host/x?id=3&X-Amz-Signature=abc&t", "https://host/x?id=3&X-Amz-Signature=***&t"),
    ],
)
def test_a_url_can_be_shown_without_its_credentials(url: str, shown: str) -> None:
    assert public_url(url) == shown


@pytest.fixture
def logged() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    logger = logging.Logger("secrets")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(SecretFilter({"hunter22"}))
    logger.addHandler(handler)
    yield logger, stream
    logger.removeHandler(handler)


def test_log_messages_and_their_arguments_are_masked(
    logged: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, stream = logged
    logger.warning("open %s with 100%%", "hunter22")
    assert stream.getvalue() == "open *** with 100%\n"


def test_tracebacks_and_stacks_in_a_log_are_masked(
    logged: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, stream = logged
    try:
        raise ValueError("bad password hunter22")
    except ValueError:
        logger.exception("failed", stack_info=True)
    assert "ValueError: bad password ***" in stream.getvalue()
    assert "hunter22" not in stream.getvalue()
    assert "Stack (most recent call last)" in stream.getvalue()


def test_a_signature_in_the_query_of_a_url_is_a_secret() -> None:
    url = "https://example.org/my.csv?X-Amz-Signature=canary99&size=12345"
    assert find_secrets({"source": url}, {}) == {"canary99"}


@pytest.mark.parametrize(
    ("argument", "secret"),
    [
        ("db.password=hunter22", "hunter22"),
        ("+note.api_key='hunter 22'", "hunter 22"),
        ("++note.nested=[{apiKey: hunter22}, 3]", "hunter22"),
        ("+credentials.word=hunter22", "hunter22"),
        ("hydra/x@y.token=hunter22", "hunter22"),
        ("data.path=https://ann:hunter22@host/x?a=b", "hunter22"),
        ("storage.password={not: [yaml", "{not: [yaml"),
    ],
)
def test_secrets_are_found_in_a_command_line(argument: str, secret: str) -> None:
    assert secret in argument_secrets(["model=gb", argument])


def test_an_ordinary_command_line_has_no_secrets() -> None:
    arguments = ["model=gb", "max_tokens=12345", "-m", "x=${oc.env:HOME}", "path=/a=b", "+y={a: 1}"]
    assert argument_secrets(arguments) == set()


def test_what_stands_below_a_telling_key_is_a_secret() -> None:
    config = {
        "credentials": {"user": "annabell", "more": [{"x": "hunter22"}]},
        "token": {"size": 12345},
    }
    assert find_secrets(config, {}) == {"annabell", "hunter22"}


def test_a_secret_is_masked_in_every_way_it_is_written() -> None:
    secrets = find_secrets({"password": 'it\'s "so" s3cret/ü'}, {})
    for text in (
        'it\'s "so" s3cret/ü',
        "it''s \"so\" s3cret/ü",  # YAML
        'it\\\'s "so" s3cret/ü',  # repr
        'it\'s \\"so\\" s3cret/ü',  # JSON
        "it%27s%20%22so%22%20s3cret%2F%C3%BC",
    ):
        assert redact(text, secrets) == "***"


def test_what_is_remembered_is_found_wherever_one_looks() -> None:
    remember_secrets({"hunter22"})
    try:
        assert find_secrets(None, {}) == {"hunter22"}
    finally:
        remember_secrets(())
    assert find_secrets(None, {}) == set()
