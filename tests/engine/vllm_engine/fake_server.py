"""A server that speaks as much of vLLM's HTTP as the engine asks, and that can be told to fail.

Its tokens are a pure function of the prompt and the seed; they stop at max_tokens.
"""

import http.server
import json
import random
import threading


class FakeServer:
    """Listens on a port of its own. `faults`: path -> what happens there instead of an answer: a status, or
    "hang"; or "fewer", "garbled" and "old weights" on /inference/v1/generate."""

    def __init__(self, root, max_model_len=64, port=0):
        self.root, self.max_model_len = str(root), max_model_len
        self.label, self.paused, self.faults = "default", False, {}
        self.stopped, self._ended = False, threading.Event()
        self.asked = []  # bodies of generate
        self.pushed = []  # directories
        self.calls = []  # paths
        self._http = Http(("127.0.0.1", port), handler(self))
        self.port = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self):
        self.stopped = True
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, path, body):
        """(status, value) of a call."""
        fault = self.faults.get(path)
        self.calls.append(path)
        if isinstance(fault, int):
            return fault, {"error": "told to"}
        if fault == "hang":
            self._ended.wait(30)
        match path:
            case "/v1/models":
                return 200, {"data": [{"root": self.root, "max_model_len": self.max_model_len}]}
            case "/weight_info":
                return 200, {"weight_version": self.label}
            case "/update_weight_version":
                self.label = body["new_version"]
            case "/collective_rpc":
                self.pushed.append(body["kwargs"]["weights_path"])
            case "/pause" | "/resume":
                self.paused = path == "/pause"
            case "/inference/v1/generate":
                self.asked.append(body)
                return 200, self._generated(body, fault)
        return 200, {"success": True}

    def _generated(self, body, fault):
        params = body["sampling_params"]
        draw = random.Random(f"{body['token_ids']} {params['seed']}")
        ids = [draw.randrange(3, 259) for _ in range(params["max_tokens"])]
        choice = {
            "token_ids": ids,
            "logprobs": {"content": [{"logprob": -1.0} for _ in ids]},
            "weight_versions": [{"version": self.label if fault != "old weights" else "0_old"}],
        }
        if fault == "garbled":
            return {"choices": [{"token_ids": ids}]}
        return {"choices": [] if fault == "fewer" else [choice]}


class Http(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def handler(server):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if server.stopped:  # a connection that was kept alive
                self.close_connection = True
                return
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, value = server.answer(self.path.split("?")[0], body)
            text = json.dumps(value).encode()
            try:
                self.send_response(status)
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except OSError:  # the client would not wait
                self.close_connection = True

        do_POST = do_GET

        def log_message(self, *_):
            pass

    return Handler
