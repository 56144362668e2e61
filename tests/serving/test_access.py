"""Tokens, and addresses that others reach."""

import logging
import subprocess
import sys

import pytest

from streamvln_gym.cli import main
from streamvln_gym.serving import ServeConfig
from streamvln_gym.serving.access import TOKEN_VARIABLE, check_binding, is_loopback, listen, read_token, token_fits

TOKEN = "sixteen letters!"


def test_tokens(tmp_path, monkeypatch, caplog):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "of the environment")
    assert read_token(None) == "of the environment"
    file = tmp_path / "token"
    file.write_text(f"  {TOKEN}\n")
    file.chmod(0o600)
    assert read_token(file) == TOKEN
    assert not caplog.records
    file.chmod(0o644)
    read_token(file)
    assert "chmod 600" in caplog.text and TOKEN not in caplog.text
    for text in ("", "   \n", "short"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"at least 16 are needed: make one with"):
            read_token(file)
    with pytest.raises(ValueError, match="cannot be read"):
        read_token(tmp_path / "none")


def test_comparison():
    assert token_fits(None, None) and token_fits(None, "x") and token_fits(TOKEN, TOKEN)
    for given in (None, "", TOKEN[:-1], TOKEN + "a", "ünïcode" * 3):
        assert not token_fits(TOKEN, given)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.8.8.8", "::1"])
def test_this_machine(host):
    assert is_loopback(host)
    check_binding(host, None, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.7"])
def test_other_machines_need_a_token(host, caplog):
    assert not is_loopback(host)
    with pytest.raises(ValueError, match=r"no token is set: give --token-file"):
        check_binding(host, None, insecure=False)
    check_binding(host, TOKEN, insecure=False)
    with caplog.at_level(logging.WARNING):
        check_binding(host, None, insecure=True)
    assert "whoever reaches" in caplog.text


def test_the_command_refuses(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(SystemExit, match=r"streamvln-gym: other machines can reach 0\.0\.0\.0, and no token"):
        main(["serve", "--host", "0.0.0.0"])
    with pytest.raises(SystemExit, match="cannot be resolved"):
        main(["serve", "--host", "no.such.host.invalid"])
    with listen("127.0.0.1", 0) as taken, pytest.raises(SystemExit, match=r"cannot listen on .* another --port"):
        main(["serve", "--port", str(taken.getsockname()[1])])
    with pytest.raises(SystemExit, match="there is no folder"):
        main(["serve", "--port", "0", "--agent", "/no/such/folder"])


@pytest.mark.parametrize(
    "settings",
    [
        {"port": -1},
        {"max_streams": 0},
        {"max_message_bytes": 10},
        {"max_instruction": 5000},
        {"resume_seconds": 0.0},
        {"idle_seconds": -1.0},
    ],
)
def test_settings_that_cannot_be(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=name):
        ServeConfig(**settings)


def test_serving_is_imported_when_it_is_used():
    code = "import sys, streamvln_gym.cli\nprint([m for m in ('torch', 'fastapi', 'uvicorn') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
