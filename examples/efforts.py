"""Asks a server that serves two models as a continuum, with an OpenAI client and the effort that the caller wants.

mi-kernels serve ./instruct ./thinking --lam 0.5 --effort low=0.3,medium=0.5,high=0.8
python -m pip install openai
python efforts.py --effort high "Is 2027 a prime number?"

Find your own efforts with `python -m eval sweep`: the report names the stages. lam counts from INSTRUCT to THINKING.
"""

import argparse
import os

from openai import OpenAI


def ask(client: OpenAI, question: str, effort: str) -> tuple[str, dict]:
    """The answer, and what the server says about the merge that gave it: {"lam": 0.8, "effort": "high"}."""
    messages = [{"role": "user", "content": question}]
    model = client.models.list().data[0].id
    answer = client.chat.completions.create(model=model, messages=messages, reasoning_effort=effort)
    return answer.choices[0].message.content or "", answer.mi_kernels


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("question", nargs="+")
    parser.add_argument("--effort", default="medium", help="one of the server's, which /v1/models lists")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    arguments = parser.parse_args()
    client = OpenAI(base_url=f"{arguments.url}/v1", api_key=os.environ.get("VLLM_API_KEY", "none"))
    for question in arguments.question:
        text, merge = ask(client, question, arguments.effort)
        print(text)
        print(f"[effort {merge['effort']}, lam {merge['lam']}]")
