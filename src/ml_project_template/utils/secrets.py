"""Passwords and tokens: found where they usually stand, and kept out of logs and saved configs."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import re
import urllib.parse
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import yaml

from ml_project_template.utils.names import flatten

__all__ = [
    "SecretFilter",
    "argument_secrets",
    "database_credentials",
    "find_secrets",
    "hidden_settings",
    "public_url",
    "redact",
    "redact_mapping",
    "remember_secrets",
]

_MASK = "***"
_SHORTEST = 4  # characters; masking shorter values would blot out ordinary text
_HARMLESS = frozenset({"true", "false", "none", "null"})

_WORDS = frozenset(
    {
        "apikey",
        "credential",
        "credentials",
        "passphrase",
        "passwd",
        "password",
        "passwords",
        "secret",
        "secrets",
        "secretkey",
        "signature",
        "token",
    }
)
_KEY_KINDS = frozenset({"access", "api", "account", "encryption", "private", "secret", "signing"})
# What stands below one of these is a secret by whatever name.
_PLACES = frozenset({"credential", "credentials", "passwords", "secret", "secrets"})
_WORD_BREAKS = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
_URL_PASSWORD = re.compile(r"://[^\s/@:]*:([^\s/]+)@")
# Clients of databases take a password as it is, slashes and all, up to the first @.
_DATABASE = re.compile(r"(?i:(?:postgres(?:ql)?|mysql|mariadb|mssql|oracle)(?:\+\w+)?)://")
_DATABASE_PASSWORD = re.compile(rf"\b{_DATABASE.pattern}[^\s/@:]*:([^\s@]+)@")
_DATABASE_CREDENTIALS = re.compile(r"[^:/@]*(?::([^@]*))?@")
# A long user name without a password is how hosts take tokens: https://<token>@host.
_URL_TOKEN = re.compile(r"://([^\s/@:]{20,})@")


def find_secrets(
    mapping: Mapping[str, Any] | None, environ: Mapping[str, str] | None = None
) -> set[str]:
    """Collect the values that must never be shown.

    They are: values under keys that speak of a password, secret, token, credential or key
    (``db_password``, ``apiKey``, ``aws.secret_access_key``), passwords inside URLs wherever they
    stand, and the values of environment variables with such names. A word must match whole:
    ``max_tokens`` and ``tokenizer`` are no secrets. What `remember_secrets` was given is among
    them.

    Args:
        mapping: A configuration, nested at will; or None.
        environ: Environment variables; ``os.environ`` by default.

    Returns:
        The secrets with their URL-quoted and JSON-escaped spellings. Values shorter than four
        characters are left out.
    """
    found: set[str] = set()
    for sources in (mapping or {}, os.environ if environ is None else environ):
        for key, text in _texts(sources):
            if _is_secret_key(key):
                found.add(text)
            found.update(_url_secrets(text))
    return _spellings(found) | _remembered


def _spellings(found: Collection[str]) -> set[str]:
    """Add to secrets how else they are written; leaves out those that can't be masked."""
    kept = {text for text in found if len(text) >= _SHORTEST and text.lower() not in _HARMLESS}
    spellings = {urllib.parse.quote(text, safe="") for text in kept}
    spellings |= {urllib.parse.unquote(text) for text in kept}
    spellings |= {json.dumps(text)[1:-1] for text in kept}
    spellings |= {json.dumps(text, ensure_ascii=False)[1:-1] for text in kept}
    # In YAML, and in what Python and the shell show.
    spellings |= {text.replace("'", other) for text in kept for other in ("''", "\\'", "'\"'\"'")}
    return kept | {text for text in spellings if len(text) >= _SHORTEST}


_remembered: set[str] = set()


def remember_secrets(found: Collection[str]) -> None:
    """Have `find_secrets` find these from now on, wherever it looks.

    A command does this with what its user has given it: it may turn up at any place, in the message
    of another library for one.

    Args:
        found: The secrets; they take the place of those that were remembered before.
    """
    global _remembered
    _remembered = _spellings(found)


def argument_secrets(arguments: Sequence[str]) -> set[str]:
    """Find the secrets in a command line, before it is known to be one that can be read.

    Args:
        arguments: Settings, ``key=value`` each, as Hydra takes them.

    Returns:
        What `find_secrets` would find in the configuration.
    """
    found = set()
    for argument in arguments:
        key, _, text = argument.partition("=")
        value: Any = text
        with contextlib.suppress(yaml.YAMLError):
            value = yaml.safe_load(text)
        for word in reversed(re.split(r"[./@]", key.lstrip("+~"))):
            value = {word: value}
        quoteless = text.strip("'\"")
        found |= find_secrets(value, {}) | find_secrets({key: quoteless}, {})
    return found


def redact(text: str, secrets: Collection[str]) -> str:
    """Replace every secret inside a text by ``***``.

    Args:
        text: Any text.
        secrets: What `find_secrets` returned.

    Returns:
        The text without the secrets.
    """
    # The longest first: a secret that contains another one must vanish as a whole.
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, _MASK)
    return text


def redact_mapping(obj: Any, secrets: Collection[str]) -> Any:
    """Copy mappings and lists, nested at will, with every secret replaced by ``***``.

    Args:
        obj: A mapping, list, tuple, text or plain value.
        secrets: What `find_secrets` returned. Values under keys that speak of a secret are
            replaced whether they are listed or not.

    Returns:
        A copy of the same structure; tuples become lists.
    """
    if isinstance(obj, Mapping):
        return {
            key: _MASK
            if _is_secret_key(str(key)) and isinstance(value, str) and value
            else redact_mapping(value, secrets)
            for key, value in obj.items()
        }
    if isinstance(obj, list | tuple):
        return [redact_mapping(value, secrets) for value in obj]
    if isinstance(obj, str):
        return redact(obj, secrets)
    return _MASK if not isinstance(obj, bool | None) and str(obj) in secrets else obj


def hidden_settings(mapping: Mapping[str, Any]) -> list[str]:
    """Name the settings of which something was replaced by ``***``.

    Args:
        mapping: What `redact_mapping` gave.

    Returns:
        Their keys, joined by dots.
    """
    return [key for key, value in flatten(mapping).items() if _MASK in str(value)]


def public_url(url: str) -> str:
    """Take the credentials out of a URL, so that it can be shown and saved.

    Args:
        url: A URL, or a local path, which is returned as it is.

    Returns:
        The URL without user and password, and with ``***`` for secrets of its query, such as the
        signature of a presigned URL.
    """
    if "://" not in url:
        return url
    scheme, rest = url.split("://", 1)
    if _DATABASE.match(url):
        rest = database_credentials(url)[1]
    ends = [place for place in map(rest.find, "/?#") if place >= 0]
    host_end = min(ends, default=len(rest))
    host, tail = rest[:host_end].rpartition("@")[2], rest[host_end:]
    tail, *query = tail.split("?", 1)
    if query:
        pairs = [pair.partition("=") for pair in query[0].split("&")]
        shown = [
            f"{name}={_MASK}" if equals and _is_secret_key(name) else f"{name}{equals}{value}"
            for name, equals, value in pairs
        ]
        tail = f"{tail}?{'&'.join(shown)}"
    return f"{scheme}://{host}{tail}"


def database_credentials(url: str) -> tuple[str, str]:
    """Separate the password in the address of a database from what can be shown.

    Args:
        url: The address, such as ``postgresql://user:password@host/name``.

    Returns:
        The password, empty without one; and what comes after scheme and credentials.
    """
    rest = url.partition("://")[2]
    found = _DATABASE_CREDENTIALS.match(rest)
    return (found[1] or "", rest[found.end() :]) if found else ("", rest)


class SecretFilter(logging.Filter):
    """A filter for log handlers that masks secrets in messages and in tracebacks.

    Args:
        secrets: What `find_secrets` returned.
    """

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__()
        self._secrets = frozenset(secrets)

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask the secrets of a record in place.

        Args:
            record: The record about to be written.

        Returns:
            True: every record is kept.
        """
        record.msg = redact(record.getMessage(), self._secrets)
        record.args = None
        if record.exc_info and not record.exc_text:
            # A formatter takes this text if it is there, and so never formats the bare exception.
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text, self._secrets)
        if record.stack_info:
            record.stack_info = redact(record.stack_info, self._secrets)
        return True


def _words(key: str) -> list[str]:
    return [word.lower() for word in _WORD_BREAKS.split(key) if word]


def _is_secret_key(key: str) -> bool:
    words = _words(key)
    pairs = itertools.pairwise(words)
    return bool(_WORDS.intersection(words)) or any(
        second == "key" and first in _KEY_KINDS for first, second in pairs
    )


def _texts(obj: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every plain value as text with the nearest key above it, or one that says more."""
    if isinstance(obj, Mapping):
        for name, value in obj.items():
            yield from _texts(value, key if _PLACES.intersection(_words(key)) else str(name))
    elif isinstance(obj, list | tuple | set | frozenset):
        for value in obj:
            yield from _texts(value, key)
    elif isinstance(obj, str):
        yield key, obj
    elif isinstance(obj, int) and not isinstance(obj, bool):
        yield key, str(obj)


def _url_secrets(text: str) -> Iterator[str]:
    for pattern in (_URL_PASSWORD, _URL_TOKEN, _DATABASE_PASSWORD):
        yield from pattern.findall(text)
    if "://" in text and "?" in text:
        query = text.split("?", 1)[1].split("#", 1)[0]
        for name, value in urllib.parse.parse_qsl(query):
            if _is_secret_key(name):
                yield value
