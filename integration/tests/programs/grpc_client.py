"""Calls grpc_server.py in all four ways. Argument: its address. Says `ok` when every answer was right."""

import sys

import grpc

PATIENCE = 10

with grpc.insecure_channel(sys.argv[1], options=[("grpc.enable_http_proxy", 0)]) as channel:
    reverse = channel.unary_unary("/test.Words/Reverse")
    for size in (0, 1, 100_000, 3_000_000):
        message = bytes(index % 251 for index in range(size))
        assert reverse(message, timeout=PATIENCE) == message[::-1], f"{size} bytes came back changed"

    answer, call = reverse.with_call(b"abc", timeout=PATIENCE, metadata=(("x-say-length", "yes"),))
    trailers = dict(call.trailing_metadata())
    assert answer == b"cba" and trailers.get("x-length") == "3", (answer, trailers)

    try:
        channel.unary_unary("/test.Words/Refuse")(b"", timeout=PATIENCE)
        raise AssertionError("the server's refusal was lost")
    except grpc.RpcError as error:
        status = (error.code(), error.details())
        assert status == (grpc.StatusCode.NOT_FOUND, "there is no such thing"), status

    try:
        channel.unary_unary("/test.Words/Unknown")(b"", timeout=PATIENCE)
        raise AssertionError("a method that does not exist answered")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error

    numbers = list(channel.unary_stream("/test.Words/Count")(b"500", timeout=PATIENCE))
    assert numbers == [str(number).encode() for number in range(500)], numbers[-3:]

    total = channel.stream_unary("/test.Words/Total")((b"x" * 1000 for _ in range(500)), timeout=PATIENCE)
    assert total == b"500000", total

    words = [f"word {number}".encode() for number in range(200)]
    shouted = list(channel.stream_stream("/test.Words/Shout")(iter(words), timeout=PATIENCE))
    assert shouted == [word.upper() for word in words], shouted[-3:]

print("ok")
