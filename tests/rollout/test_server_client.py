"""The connections to servers, counted by a server that keeps them open."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rl_llm.config.api_key import ApiKey
from rl_llm.rollout import server_client


@pytest.fixture
def server():
    """A server with a list of the connections that it was asked through."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.server.connections.append(self.client_address)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads, http.connections = True, []
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield http
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.parametrize(("expiry_s", "num_connections"), [(0.1, 2), (60.0, 1)])
def test_a_connection_that_was_idle_for_long_is_not_used_again(
    server, monkeypatch, expiry_s, num_connections
):
    monkeypatch.setattr(server_client, "IDLE_CONNECTION_S", expiry_s)
    url = f"http://127.0.0.1:{server.server_port}/health"

    async def ask_twice():
        async with server_client.connect(ApiKey(None, variable="KEY", option="key")) as http:
            await http.get(url)
            await asyncio.sleep(0.3)
            await http.get(url)

    asyncio.run(ask_twice())
    assert len(set(server.connections)) == num_connections


def test_an_idle_connection_is_closed_before_vllm_closes_it_after_5_s():
    assert server_client.IDLE_CONNECTION_S < 5.0
