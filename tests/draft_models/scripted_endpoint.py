"""A tiny OpenAI endpoint on a loopback port that answers by a script. Only tests may do that."""

import json
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Script:
    """`answer(request, attempt)`: a status and a body for the attempt-th time that this user message is asked."""

    def __init__(self, answer):
        self.answer, self.requests, self.headers, self.url = answer, [], [], ""
        self.attempts, self.lock = Counter(), threading.Lock()

    def reply(self, request, headers):
        with self.lock:
            asked = request["messages"][-1]["content"]
            self.attempts[asked] += 1
            self.requests.append(request)
            self.headers.append(headers)
            return self.answer(request, self.attempts[asked])


def completion(text, finish_reason="stop"):
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": finish_reason}]
    return 200, {"id": "c", "object": "chat.completion", "created": 0, "model": "tiny", "choices": choices}


def failure(status, message):
    return status, {"error": {"message": message, "type": "scripted", "param": None, "code": None}}


@contextmanager
def serve(answer):
    """The script, with the endpoint's `url`."""
    script = Script(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            assert self.path == "/v1/models"
            self._send(200, {"object": "list", "data": [{"id": "tiny", "object": "model"}]})

        def do_POST(self):
            assert self.path == "/v1/chat/completions"
            length = int(self.headers["Content-Length"])
            body = self.rfile.read(length)
            if len(body) < length:  # who gives up leaves in the middle of a question, too
                self.close_connection = True
                return
            self._send(*script.reply(json.loads(body), dict(self.headers)))

        def _send(self, status, body):
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request, client_address):
            if not isinstance(sys.exception(), ConnectionError):  # who gives up leaves in the middle of an answer
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
