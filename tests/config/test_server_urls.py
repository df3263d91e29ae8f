"""How the addresses of servers are written, and what is never repeated of one."""

import pytest

from rl_llm.config.server_urls import server_urls
from rl_llm.errors import ConfigError


def test_an_address_is_taken_as_people_write_it():
    written = ["http://node2:8000", "node2:8000/", "http://node2:8000/v1", "https://a.b/llm/v1/"]
    assert server_urls(written) == ["http://node2:8000", "https://a.b/llm"]


@pytest.mark.parametrize("url", ["", "ftp://node2:8000", "http://node2:port", "http://[::1", "/v1"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError) as caught:
        server_urls([url])
    assert str(caught.value).startswith(f"rollout.servers.urls: {url!r} is no address of a server")


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="user name or password") as caught:
        server_urls(["http://me:secret@node2:port"])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("rest", ["?token=secret", "#secret", "/v1?a=b#secret"])
@pytest.mark.parametrize("base", ["http://node2:8000", "node2:8000", "http://node2:port"])
def test_what_follows_an_address_is_refused_and_not_repeated(base, rest):
    with pytest.raises(ConfigError, match="with what follows it is no address") as caught:
        server_urls([base + rest])
    assert base in str(caught.value) and "secret" not in str(caught.value)
