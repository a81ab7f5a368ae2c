"""An OpenAI-compatible server on localhost that answers from a model, and misbehaves on demand."""

import json
import threading
import time
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from mnemoscope.audits.settings import EndpointSettings, checked

KEY = "sk-test-0123456789-secret"


def endpoint(**values):
    return checked(EndpointSettings, **values)


@lru_cache(maxsize=4096)
def _generate(lm, prompt, n):
    """Greedy tokens by transformers' own decoding, and the log-probabilities at each place."""
    found = lm.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=n,
        min_new_tokens=n,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )
    rows = [logits[0].float().log_softmax(-1) for logits in found.logits]
    return found.sequences[0, len(prompt) :].tolist(), rows


class Service:
    """What the server does and has seen: requests (path, body), answered bodies, most at once.

    The style is ``vllm`` (lists of log-probabilities, `echo` judges the prompt), ``llama``
    (`content` with ids, `echo` ignored), ``openai`` (`echo` with log-probabilities refused) or
    ``text`` (no log-probabilities at all). Of `failures` the coming requests take one each.
    """

    def __init__(self, lm, style="vllm"):
        self.lm, self.style = lm, style
        self.failures, self.bodies, self.headers, self.at = [], [], [], []
        self.requests, self.busy, self._now = [], 0, 0
        self.lock, self.model_lock = threading.Lock(), threading.Lock()
        self.dies_after, self.preamble, self.pause = None, "", 0.0

    @property
    def n_requests(self):
        return len(self.requests)

    def complete(self, body):
        lm, prompt = self.lm, body["prompt"]
        if isinstance(prompt, str):
            prompt = lm.tokenizer(prompt).input_ids
        echo = bool(body.get("echo"))
        if echo and body.get("logprobs") is not None and self.style == "openai":
            return 400, {"error": {"message": "echo and logprobs cannot be used together."}}
        made, rows = _generate(lm, tuple(prompt), body["max_tokens"])
        if echo and self.style == "vllm":
            with torch.inference_mode():
                logits = lm.model(torch.tensor([prompt])).logits[0, :-1].float().log_softmax(-1)
            rows, made = [None, *logits, *rows], [*prompt, *made]
        text = lm.tokenizer.decode(made, skip_special_tokens=True)
        choice = {"index": 0, "text": text, "finish_reason": "length"}
        if body.get("logprobs") is not None and self.style != "text":
            as_content = self.style == "llama"
            choice["logprobs"] = self._logprobs(made, rows, body["logprobs"], as_content=as_content)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": body["max_tokens"]}
        return 200, {"model": body["model"], "choices": [choice], "usage": usage}

    def chat(self, body):
        """An answer to the last message, which shows a text behind an instruction and a blank line.

        Behind `preamble`, and without the blanks around it, as chats answer.
        """
        _, _, shown = body["messages"][-1]["content"].partition("\n\n")
        prompt = [*self.lm.before, *self.lm.tokenizer(shown, add_special_tokens=False).input_ids]
        made, rows = _generate(self.lm, tuple(prompt), min(body["max_tokens"], 48))
        text = self.preamble + self.lm.tokenizer.decode(made, skip_special_tokens=True).strip()
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "length"}
        if body.get("logprobs") and not self.preamble:
            choice["logprobs"] = self._logprobs(made, rows, body["top_logprobs"], as_content=True)
        return 200, {"model": body["model"], "choices": [choice], "usage": None}

    def _top(self, row, n):
        best = row.topk(n)
        texts = self.lm.tokenizer.batch_decode(best.indices[:, None].tolist())
        return dict(zip(texts, best.values.tolist(), strict=True))

    def _logprobs(self, made, rows, n, *, as_content=False):
        texts = self.lm.tokenizer.batch_decode([[one] for one in made])
        values = [
            None if row is None else float(row[one]) for one, row in zip(made, rows, strict=True)
        ]
        tops = [None if row is None else self._top(row, n) for row in rows]
        if not as_content:
            return {"tokens": texts, "token_logprobs": values, "top_logprobs": tops}
        content = []
        for one, text, value, top in zip(made, texts, values, tops, strict=True):
            best = [{"token": t, "logprob": v} for t, v in top.items()]
            content.append({"id": one, "token": text, "logprob": value, "top_logprobs": best})
        return {"content": content}


def _handler(service):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with service.lock:
                service.requests.append((self.path, body))
                service.at.append(time.monotonic())
                service.headers.append(dict(self.headers))
                service._now += 1
                service.busy = max(service.busy, service._now)
                failure = service.failures.pop(0) if service.failures else None
                if service.dies_after is not None and len(service.bodies) >= service.dies_after:
                    failure = (503, {}, "down")
            self._answer(body, failure)

        def _answer(self, body, failure):
            if failure == "drop":
                self._leave()
                self.close_connection = True
                self.connection.close()
                return None
            if failure == "slow":
                time.sleep(1.0)
            if failure == "dripping headers":
                return self._go_on(b"x", headers=True)
            if failure in ("endless", "dripping"):
                return self._go_on(b" " * 2**16 if failure == "endless" else b" ")
            if isinstance(failure, tuple):
                status, headers, text = failure
                return self._send(status, text.encode(), headers)
            is_chat = self.path == "/v1/chat/completions" and service.style == "chat"
            if self.path != "/v1/completions" and not is_chat:
                return self._send(404, b'{"error": {"message": "no such path"}}')
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                said = f"Incorrect API key provided: {self.headers.get('Authorization')}."
                return self._send(401, json.dumps({"error": {"message": said}}).encode())
            if body["model"] != "embedded":
                text = f"The model `{body['model']}` does not exist."
                return self._send(404, json.dumps({"error": {"message": text}}).encode())
            time.sleep(service.pause)
            with service.model_lock:
                status, answer = service.chat(body) if is_chat else service.complete(body)
            if status == 200:
                with service.lock:
                    service.bodies.append(body)
            return self._send(status, json.dumps(answer).encode())

        def _go_on(self, block, headers=False):
            self._leave()
            self.close_connection = True
            try:
                self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
                if not headers:
                    self.wfile.write(b"y\r\n\r\n")
                while True:
                    self.wfile.write(block)
                    time.sleep(0.02 if len(block) == 1 else 0)
            except OSError:
                return

        def _leave(self):
            with service.lock:
                service._now -= 1

        def _send(self, status, data, headers=()):
            self._leave()
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
    service = Service(lm, style)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(service))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield service, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
