"""The part of Google Cloud Storage's JSON API that gcsfs and TensorStore speak, over objects in memory.

An object appears when its upload ends, with a new generation. Every BUSY_EVERY-th request is answered by 429.
"""

import http.server
import itertools
import json
import re
import threading
import urllib.parse

BUSY_EVERY = 50  # each costs a client seconds
OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^?]+)")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("localhost", 0), Handler)
        self.objects: dict[str, tuple[bytes, int]] = {}  # name -> (contents, generation)
        self.uploads: dict[str, tuple[str, dict, bytearray]] = {}  # resumable ones under way
        self.requests, self.generations, self.lock = itertools.count(1), itertools.count(1), threading.Lock()
        self.busy = 0  # requests that were answered by 429
        self.url = f"http://localhost:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        body, query = self._begin()
        if body is None:
            return
        path = urllib.parse.urlparse(self.path).path
        if match := OBJECT.match(path):
            name = urllib.parse.unquote(match[2])
            if name not in self.server.objects:
                return self._answer(404, {"error": {"code": 404, "message": "No such object"}})
            data, generation = self.server.objects[name]
            if query.get("alt") != "media" and not path.startswith("/download"):
                return self._answer(200, self._described(name))
            if query.get("ifGenerationNotMatch") == str(generation):
                return self._answer(304, b"")
            return self._media(data, generation)
        if path.endswith("/o"):
            return self._answer(200, self._listing(query.get("prefix", ""), query.get("delimiter", "")))
        return self._answer(200, {"kind": "storage#bucket", "name": "bucket", "location": "HERE"})

    def do_POST(self):
        body, query = self._begin()
        if body is None:
            return
        if "upload_id" in query:
            return self._go_on(query, body)
        kind, name = query["uploadType"], query.get("name", "")
        if kind == "media":
            return self._store(name, query, body)
        if kind == "multipart":
            boundary = self.headers["Content-Type"].partition("boundary=")[2].strip("\"'").encode()
            about, data = body.split(b"--" + boundary)[1:3]
            data = data.split(b"\n\n" if b"\r\n\r\n" not in data else b"\r\n\r\n", 1)[1]
            data = data[: -2 if data.endswith(b"\r\n") else -1]
            return self._store(json.loads(re.search(rb"\{.*\}", about, re.S)[0])["name"], query, data)
        upload = str(next(self.server.generations))
        self.server.uploads[upload] = (json.loads(body)["name"], query, bytearray())
        self._answer(200, {}, {"Location": f"{self.server.url}/resumable?upload_id={upload}"})

    def do_PUT(self):
        body, query = self._begin()
        if body is not None:
            self._go_on(query, body)

    def _go_on(self, query, body):
        name, about, data = self.server.uploads[query["upload_id"]]
        data += body
        if self.headers.get("Content-Range", "").endswith("/*"):
            return self._answer(308, b"", {"Range": f"bytes=0-{len(data) - 1}"})
        self._store(name, about, bytes(data))

    def do_DELETE(self):
        body, _ = self._begin()
        if body is None:
            return
        name = urllib.parse.unquote(OBJECT.match(urllib.parse.urlparse(self.path).path)[2])
        gone = self.server.objects.pop(name, None)
        self._answer(204 if gone else 404, b"" if gone else {"error": {"code": 404, "message": "none"}})

    def _begin(self):
        """(body, query); the body is None where the request was answered by 429."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlparse(self.path).query))
        if next(self.server.requests) % BUSY_EVERY == 0:
            self.server.busy += 1
            self._answer(429, {"error": {"code": 429, "message": "rateLimitExceeded"}})
            return None, query
        return body, query

    def _store(self, name, query, data):
        with self.server.lock:
            seen = self.server.objects.get(name, (b"", 0))[1]
            if query.get("ifGenerationMatch", str(seen)) != str(seen):
                return self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
            self.server.objects[name] = (data, next(self.server.generations))
        self._answer(200, self._described(name))

    def _described(self, name):
        data, generation = self.server.objects[name]
        about = {"name": name, "bucket": "bucket", "size": str(len(data)), "generation": str(generation)}
        link = (
            f"{self.server.url}/download/storage/v1/b/bucket/o/{urllib.parse.quote(name, safe='')}?alt=media"
        )
        times = dict.fromkeys(("updated", "timeCreated"), "2026-11-30T00:00:00.000Z")
        return {"kind": "storage#object", "mediaLink": link, "metageneration": "1", **about, **times}

    def _listing(self, prefix, delimiter):
        names = sorted(name for name in list(self.server.objects) if name.startswith(prefix))
        below = {name: name[len(prefix) :] for name in names}
        deeper = [rest for rest in below.values() if delimiter and delimiter in rest]
        prefixes = sorted({prefix + rest.split(delimiter)[0] + delimiter for rest in deeper})
        items = [self._described(name) for name, rest in below.items() if rest not in deeper]
        return {"kind": "storage#objects", "items": items, "prefixes": prefixes}

    def _media(self, data, generation):
        headers = {"X-Goog-Generation": str(generation), "ETag": f'"{generation}"'}
        if (wanted := self.headers.get("Range")) and data:
            first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()
            begin = int(first) if first else max(0, len(data) - int(last))
            end = min(int(last) if first and last else len(data) - 1, len(data) - 1)
            if begin >= len(data):
                return self._answer(416, b"")
            headers["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
            return self._answer(206, data[begin : end + 1], headers)
        self._answer(200, data, headers)

    def _answer(self, status, body, headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(body, bytes) else "application/json"
        )
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
