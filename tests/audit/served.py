"""An OpenAI-compatible server on localhost that answers from a model, and misbehaves on demand."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

KEY = "sk-test-0123456789-secret"


class Service:
    """What the server does and has seen.

    Attributes:
        lm: answers.
        style: ``vllm`` (lists of log-probabilities, `echo` judges the prompt), ``llama``
            (`content` with ids, `echo` ignored), ``openai`` (`echo` with log-probabilities
            refused), ``text`` (no log-probabilities at all).
        failures: for the coming requests what goes wrong, first one first.
        bodies: every request that was answered with a completion.
        n_requests: of all.
        at: when each request came, seconds.
        busy: largest number of requests at once.
    """

    def __init__(self, lm, style="vllm"):
        self.lm, self.style = lm, style
        self.failures, self.bodies, self.headers, self.at = [], [], [], []
        self.n_requests, self.busy, self._now = 0, 0, 0
        self.lock, self.dies_after = threading.Lock(), None

    def complete(self, body):
        """A completion as the style has it."""
        lm, prompt = self.lm, body["prompt"]
        if isinstance(prompt, str):
            prompt = lm.tokenizer(prompt).input_ids
        echo = bool(body.get("echo"))
        if echo and body.get("logprobs") is not None and self.style == "openai":
            return 400, {"error": {"message": "echo and logprobs cannot be used together."}}
        ids, rows = list(prompt), []
        with torch.inference_mode():
            for _ in range(body["max_tokens"]):
                logits = lm.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)
                rows.append(logits)
                ids.append(int(logits.argmax()))
            made = ids[len(prompt) :]
            if echo and self.style == "vllm":
                logits = lm.model(torch.tensor([prompt])).logits[0, :-1].float().log_softmax(-1)
                rows, made = [None, *logits, *rows], ids
        text = lm.tokenizer.decode(made, skip_special_tokens=True)
        choice = {"index": 0, "text": text, "finish_reason": "length"}
        if body.get("logprobs") is not None and self.style != "text":
            choice["logprobs"] = self._logprobs(made, rows, body["logprobs"])
        usage = {"prompt_tokens": len(prompt), "completion_tokens": body["max_tokens"]}
        return 200, {"model": body["model"], "choices": [choice], "usage": usage}

    def _logprobs(self, made, rows, n):
        texts = self.lm.tokenizer.batch_decode([[one] for one in made])
        values = [None if row is None else float(row[one]) for one, row in zip(made, rows)]
        tops = [None if row is None else row.topk(n) for row in rows]
        tops = [
            None
            if top is None
            else list(
                zip(
                    self.lm.tokenizer.batch_decode(top.indices[:, None].tolist()),
                    top.values.tolist(),
                )
            )
            for top in tops
        ]
        if self.style == "llama":
            return {
                "content": [
                    {
                        "id": one,
                        "token": text,
                        "logprob": value,
                        "top_logprobs": [{"token": t, "logprob": v} for t, v in top or []],
                    }
                    for one, text, value, top in zip(made, texts, values, tops)
                ]
            }
        return {
            "tokens": texts,
            "token_logprobs": values,
            "top_logprobs": [None if top is None else dict(top) for top in tops],
        }


def _handler(service):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with service.lock:
                service.n_requests += 1
                service.at.append(time.monotonic())
                service.headers.append(dict(self.headers))
                service._now += 1
                service.busy = max(service.busy, service._now)
                failure = service.failures.pop(0) if service.failures else None
                if service.dies_after is not None and len(service.bodies) >= service.dies_after:
                    failure = (503, {}, "down")
            try:
                self._answer(body, failure)
            finally:
                with service.lock:
                    service._now -= 1

        def _answer(self, body, failure):
            if failure == "drop":
                self.close_connection = True
                self.connection.close()
                return
            if failure == "slow":
                time.sleep(1.0)
            if isinstance(failure, tuple):
                status, headers, text = failure
                return self._send(status, text.encode(), headers)
            if self.path != "/v1/completions":
                return self._send(404, b'{"error": {"message": "no such path"}}')
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                said = f"Incorrect API key provided: {self.headers.get('Authorization')}."
                return self._send(401, json.dumps({"error": {"message": said}}).encode())
            if body["model"] != "embedded":
                text = f"The model `{body['model']}` does not exist."
                return self._send(404, json.dumps({"error": {"message": text}}).encode())
            status, answer = service.complete(body)
            if status == 200:
                with service.lock:
                    service.bodies.append(body)
            return self._send(status, json.dumps(answer).encode())

        def _send(self, status, data, headers=()):
            try:
                self.send_response(status)
                for name, value in dict(headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                pass

    return Handler


@contextmanager
def serving(lm, style="vllm"):
    """Serve a model; gives the service and its address."""
    service = Service(lm, style)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(service))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield service, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
