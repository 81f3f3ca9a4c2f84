"""Who reaches a Ray that a sweep starts: its token, and its address."""

import os
import stat
from pathlib import Path

import pytest
from ray._private import ray_constants, services

from raydual.cluster.access import check_token_path, guard_token, on_loopback
from raydual.errors import UserError

MODE = 0o600


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without a token, and nothing said in the environment."""
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_token_is_made_for_its_owner_alone(home):
    before = os.umask(0)
    try:
        guard_token()
    finally:
        os.umask(before)
    token = home / ".ray" / "auth_token"
    assert mode(token) == MODE
    assert len(token.read_text()) == 64
    assert list(token.parent.iterdir()) == [token]
    first = token.read_text()
    guard_token()
    assert token.read_text() == first


@pytest.mark.parametrize("named", [False, True])
def test_a_token_that_is_there_is_kept_and_closed(home, monkeypatch, named):
    token = home / ("mine" if named else ".ray/auth_token")
    token.parent.mkdir(exist_ok=True)
    token.write_text("ab" * 32)
    token.chmod(0o644)
    if named:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    guard_token()
    assert (token.read_text(), mode(token)) == ("ab" * 32, MODE)


@pytest.mark.parametrize(("name", "value"), [("RAY_AUTH_TOKEN", "ab" * 32), ("RAY_AUTH_MODE", "disabled")])
def test_no_file_is_made_where_none_is_used(home, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    guard_token()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b" \n", "empty"), (b"\xff\xfe", "no text")])
def test_a_token_that_cannot_be_read_is_one_line(home, monkeypatch, content, reason):
    token = home / "token"
    if content is not None:
        token.write_bytes(content)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    for check in (guard_token, check_token_path):
        with pytest.raises(UserError, match=f"RAY_AUTH_TOKEN_PATH={token}: .*{reason}") as found:
            check()
        assert "\n" not in str(found.value)
    assert token.exists() == (content is not None), "no token is made where one was named"


def test_a_home_that_cannot_be_written_is_one_line(home):
    (home / ".ray").write_text("a file in the way")
    with pytest.raises(UserError, match="Ray's token cannot be kept there"):
        guard_token()


@pytest.mark.parametrize("before", [None, "1"])
def test_the_loopback_address_is_taken_only_within(monkeypatch, before):
    variable = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    monkeypatch.delenv(variable, raising=False)
    if before is not None:
        monkeypatch.setenv(variable, before)
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    with pytest.raises(KeyboardInterrupt), on_loopback():
        assert services.get_node_ip_address() == "127.0.0.1"
        assert os.environ[variable] == "0"
        raise KeyboardInterrupt
    assert ray_constants.ENABLE_RAY_CLUSTER
    assert os.environ.get(variable) == before
