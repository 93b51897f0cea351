"""Answers with the effort that the caller asks for: an OpenAI client, and a server that changes lam between answers.

mi-kernels serve ./instruct ./thinking --lam 0.3
python -m pip install openai
python efforts.py --effort high "Is 2027 a prime number?"
"""

import argparse
import json
import os
import urllib.request

from openai import OpenAI

# Find your own with `python -m eval sweep`: the report names the stages. lam counts from INSTRUCT to THINKING.
EFFORTS = {"low": 0.3, "medium": 0.5, "high": 0.8}


class Efforts:
    """Questions to one server. A change of lam concerns the whole server, and waits for running answers."""

    def __init__(self, url: str, key: str) -> None:
        self._url, self._key = url.rstrip("/"), key
        self._client = OpenAI(base_url=f"{self._url}/v1", api_key=key)
        self._model = self._client.models.list().data[0].id

    def lam(self) -> float:
        return self._request(None)["lam"]

    def set_effort(self, effort: str) -> None:
        """Changes lam if the server has another one. That takes seconds: sort your questions by effort."""
        if self._request(None) != {"lam": EFFORTS[effort]}:
            self._request({"lam": EFFORTS[effort]})

    def ask(self, question: str, effort: str) -> str:
        self.set_effort(effort)
        messages = [{"role": "user", "content": question}]
        answer = self._client.chat.completions.create(model=self._model, messages=messages)
        return answer.choices[0].message.content or ""

    def _request(self, change: dict | None) -> dict:
        request = urllib.request.Request(
            f"{self._url}/v1/mi_kernels/lam",
            data=None if change is None else json.dumps(change).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"},
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("question", nargs="+")
    parser.add_argument("--effort", choices=EFFORTS, default="medium")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    arguments = parser.parse_args()
    server = Efforts(arguments.url, os.environ.get("VLLM_API_KEY", "none"))
    for question in arguments.question:
        print(server.ask(question, arguments.effort))
    print(f"[effort {arguments.effort}, lam {server.lam():g}]")
