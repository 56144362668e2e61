"""Who may use a server: the token, and addresses that other machines reach."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import socket
from pathlib import Path

TOKEN_VARIABLE = "STREAMVLN_GYM_TOKEN"
SHORTEST_TOKEN = 16  # characters

_logger = logging.getLogger(__name__)
_MAKE_ONE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))' > token.txt"


def read_token(file: Path | None) -> str | None:
    """The token that clients must show, None where there is none.

    Args:
        file: holds it, white space around it does not count; None means the environment variable.

    Raises:
        ValueError: the file cannot be read, or the token is too short.
    """
    if file is not None:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the token file {file} cannot be read ({error}): {_MAKE_ONE}") from error
        if os.name == "posix" and file.stat().st_mode & 0o077:
            _logger.warning("other users of this machine can read the token file %s: chmod 600 it", file)
        source = f"the token in {file}"
    elif TOKEN_VARIABLE in os.environ:
        token, source = os.environ[TOKEN_VARIABLE].strip(), f"the token in {TOKEN_VARIABLE}"
    else:
        return None
    if len(token) < SHORTEST_TOKEN:
        raise ValueError(f"{source} has {len(token)} characters, at least {SHORTEST_TOKEN} are needed: {_MAKE_ONE}")
    return token


def token_fits(expected: str | None, given: str | None) -> bool:
    """Whether a client may go on; the comparison takes the same time wherever two tokens differ."""
    if expected is None:
        return True
    return hmac.compare_digest(expected.encode(), (given or "").encode())


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address.

    Raises:
        ValueError: the name cannot be resolved.
    """
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ValueError(f"the host {host!r} cannot be resolved ({error}): give an address of this machine") from error
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


def check_binding(host: str, token: str | None, insecure: bool) -> None:
    """Refuses to listen where others can connect, unless clients must show a token.

    Raises:
        ValueError: they need none, and it was not said that this is meant.
    """
    if token is not None or is_loopback(host):
        return
    if not insecure:
        raise ValueError(
            f"other machines can reach {host}, and no token is set: give --token-file FILE or set {TOKEN_VARIABLE} "
            f"({_MAKE_ONE}), or keep to 127.0.0.1 and forward the port by ssh. --insecure True does without"
        )
    _logger.warning("no token: whoever reaches %s can use the agent", host)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ValueError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ValueError(f"cannot listen on {host}, port {port} ({error}): give another --port or --host") from error
