"""Talks to websocket_server.py. Argument: its address. Says `ok` when every message came back as it was sent."""

import sys

from websockets.sync.client import connect

with connect(sys.argv[1], proxy=None, max_size=16 << 20, open_timeout=10, close_timeout=10) as connection:
    messages = ["", "a word", "Grüße, 世界", b"\x00\xff\r\n\r\n", bytes(range(256)) * 8192]
    for message in messages:
        connection.send(message)
        assert connection.recv(timeout=10) == message, "a message came back changed"

    # Many under way at once keep their order.
    for number in range(1000):
        connection.send(f"message {number}")
    for number in range(1000):
        back = connection.recv(timeout=10)
        assert back == f"message {number}", back

    assert connection.ping().wait(timeout=10), "no pong"
    connection.close(4000, "enough")

assert (connection.close_code, connection.close_reason) == (4000, "enough"), connection.close_code
print("ok")
