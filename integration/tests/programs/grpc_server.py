"""A gRPC server without generated code: messages are bytes. Argument: the port."""

import sys
from concurrent import futures

import grpc


def reverse(request, context):
    length = dict(context.invocation_metadata()).get("x-say-length")
    if length:
        context.set_trailing_metadata((("x-length", str(len(request))),))
    return request[::-1]


def refuse(_request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "there is no such thing")


def count(request, _context):
    for number in range(int(request)):
        yield str(number).encode()


def total(requests, _context):
    return str(sum(len(request) for request in requests)).encode()


def shout(requests, _context):
    for request in requests:
        yield request.upper()


server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
handlers = {
    "Reverse": grpc.unary_unary_rpc_method_handler(reverse),
    "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Total": grpc.stream_unary_rpc_method_handler(total),
    "Shout": grpc.stream_stream_rpc_method_handler(shout),
}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Words", handlers),))
assert server.add_insecure_port(f"[::]:{sys.argv[1]}"), "the port is taken"
server.start()
server.wait_for_termination()
