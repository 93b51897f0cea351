"""How requests choose their merge: what they may say, what vLLM gets, and what the response says about it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mi_kernels import Recipe, Rule
from mi_kernels.errors import ArgumentError
from mi_kernels.integrations.vllm.effort_route import EffortLayer
from mi_kernels.integrations.vllm.efforts import Efforts, NoSuchEffort, Wanted, read_efforts
from mi_kernels.integrations.vllm.lam_request import RequestError
from mi_kernels.integrations.vllm.turns import Turns

from ...support.effort_server import CHAT, Weights, application

NAMED = {"low": Recipe(0.2), "high": Recipe(0.9, rules=(Rule(0.0, modules="attn"),))}
PAIR = ("instruct", "thinking")


DEFAULT = Recipe(0.5)


def efforts(default: Recipe = DEFAULT) -> Efforts:
    return Efforts(("qwen", "other"), NAMED, default)


@pytest.mark.parametrize(
    ("body", "path", "shown", "left"),
    [
        ({"model": "qwen"}, CHAT, {"lam": 0.5}, {"model": "qwen"}),
        ({"model": "qwen", "lam": None, "reasoning_effort": None}, CHAT, {"lam": 0.5}, {"model": "qwen"}),
        ({"model": "qwen", "lam": 0.6}, CHAT, {"lam": 0.6}, {"model": "qwen"}),
        ({"model": "qwen@0.6"}, CHAT, {"lam": 0.6}, {"model": "qwen"}),
        ({"model": "other@low"}, "/v1/completions", {"lam": 0.2, "effort": "low"}, {"model": "other"}),
        ({"reasoning_effort": "low", "lam": 0.2, "n": 2}, CHAT, {"lam": 0.2, "effort": "low"}, {"n": 2}),
        ({"model": "unknown@low"}, CHAT, {"lam": 0.5}, {"model": "unknown@low"}),  # vLLM says that there is none
        (
            {"mi_kernels": {"lam": 0.6, "layers": "1:", "modules": ["ffn"], "rules": None}},
            CHAT,
            {"lam": 0.6, "layers": "1:", "modules": ["ffn"]},
            {},
        ),
        ({"model": 3}, CHAT, {"lam": 0.5}, {"model": 3}),
        (
            {"reasoning": {"effort": "low", "summary": "auto"}},
            "/v1/responses",
            {"lam": 0.2, "effort": "low"},
            {"reasoning": {"summary": "auto"}},
        ),
        ({"output_config": {"effort": "low"}}, "/v1/messages", {"lam": 0.2, "effort": "low"}, {"output_config": {}}),
        (
            {"model": "qwen@high"},
            CHAT,
            {"lam": 0.9, "rules": [{"lam": 0.0, "modules": "attn"}], "effort": "high"},
            {"model": "qwen"},
        ),
    ],
)
def test_choices(body: dict[str, Any], path: str, shown: dict[str, Any], left: dict[str, Any]) -> None:
    given = json.loads(json.dumps(body))
    chosen, rest = efforts().choose(body, path)
    assert (chosen.shown, rest) == (shown, left)
    assert body == given, "the caller's body is unchanged"


def test_a_number_keeps_the_masks_of_the_server() -> None:
    chosen, _ = efforts(Recipe(0.5, layers="1:", modules="ffn")).choose({"lam": 0.7}, CHAT)
    assert chosen.recipe == Recipe(0.7, layers="1:", modules="ffn")


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"lam": "0.6"}, "lam", "lam is '0.6'"),
        ({"lam": 1.5}, "lam", "lam is 1.5. Send a number from 0 to 1."),
        ({"lam": True}, "lam", "lam is True"),
        ({"lam": [0.1]}, "lam", "lam is [0.1]"),
        ({"reasoning_effort": "hihg"}, "reasoning_effort", 'reasoning_effort is "hihg". Did you mean high?'),
        ({"reasoning_effort": "minimal"}, "reasoning_effort", "Send one of low, high as reasoning_effort."),
        ({"reasoning_effort": 3}, "reasoning_effort", "reasoning_effort is 3"),
        ({"lam": 0.3, "reasoning_effort": "low"}, "reasoning_effort", "lam and reasoning_effort choose different"),
        ({"mi_kernels": 0.5}, "mi_kernels", "mi_kernels: a number, 0.5 is not an object"),
        (
            {"mi_kernels": {"lam": 0.5, "layer": 1}},
            "mi_kernels",
            'mi_kernels: unknown key "layer". Did you mean layers?',
        ),
        ({"mi_kernels": {"lam": 0.5, "drain": True}}, "mi_kernels", 'unknown key "drain"'),
        ({"mi_kernels": {"lam": 2}}, "mi_kernels", "mi_kernels: lam is 2"),
        ({"lam": 0.3, "model": "qwen@low"}, "model", "lam and model choose different merges"),
    ],
)
def test_refused_choices(body: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        efforts().choose(body, CHAT)
    assert words in f"{caught.value.problem}. {caught.value.remedy}"
    assert caught.value.param == param
    assert not isinstance(caught.value, NoSuchEffort)


@pytest.mark.parametrize("model", ["qwen@hihg", "qwen@", "qwen@1.5", "qwen@nan"])
def test_models_that_do_not_exist(model: str) -> None:
    with pytest.raises(NoSuchEffort, match="does not exist") as caught:
        efforts().choose({"model": model}, CHAT)
    assert "Send one of low, high or a number from 0 to 1 after @." in caught.value.remedy


def test_extrapolation_is_the_servers_choice() -> None:
    chosen, _ = efforts(Recipe(0.5, extrapolate=True)).choose({"model": "qwen@1.5"}, CHAT)
    assert chosen.shown == {"lam": 1.5}


def test_equal_recipes_are_one_group() -> None:
    assert Wanted.of(Recipe([0.1, 0.9], layers=[1, 2])) == Wanted.of(Recipe([0.1, 0.9], layers=[1, 2]))
    assert len({Wanted.of(Recipe(0.1)), Wanted.of(Recipe(0.1)), Wanted.of(Recipe(0.1, modules="ffn"))}) == 2


def test_reading_efforts(tmp_path: Path) -> None:
    file = tmp_path / "max.yml"
    file.write_text("method: lerp\nmodels: [instruct, thinking]\nlam: 1\nrules: [{lam: 0, modules: attn}]\n")
    found = read_efforts(["low=0.2, high=0.9", f"max={file}"], Recipe(0.5, layers="1:"), PAIR)
    assert found == {
        "low": Recipe(0.2, layers="1:"),
        "high": Recipe(0.9, layers="1:"),
        "max": Recipe(1, rules=(Rule(0, modules="attn"),)),
    }


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("low", "'low' is not NAME=LAM"),
        ("low=", "'low=' is not NAME=LAM"),
        ("=0.2", "'=0.2' is not NAME=LAM"),
        ("a@b=0.2", "'a@b=0.2' is not NAME=LAM"),
        ("0.5=0.2", "'0.5=0.2' is not NAME=LAM"),
        ("low=0.2,low=0.3", "low is given twice"),
        ("low=2", "--effort low: lam is 2"),
        ("low=x", "--effort low: lam is 'x'"),
        ("low=./no.yml", "--effort low: ./no.yml: cannot be read"),
    ],
)
def test_efforts_that_cannot_be_read(word: str, problem: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        read_efforts([word], Recipe(0.5), PAIR)
    assert problem in caught.value.problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("method: ties\nbase: instruct\nmodels: [thinking, third]\ndensity: 0.2\n", "is not an interpolation"),
        ("method: lerp\nmodels: [thinking, instruct]\nlam: 0.2\n", "interpolates thinking and instruct, not instruct"),
        ("method: lerp\nmodels: [instruct, third]\nlam: 0.2\n", "interpolates instruct and third"),
    ],
)
def test_recipes_of_other_models(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "r.yml").write_text(content)
    with pytest.raises(ArgumentError) as caught:
        read_efforts([f"max={tmp_path / 'r.yml'}"], Recipe(0.5), PAIR)
    assert problem in caught.value.problem


async def asked(app: Any, *bodies: dict[str, Any], path: str = CHAT) -> list[Any]:
    import httpx

    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        return await asyncio.gather(*(client.post(path, json=body) for body in bodies))


def test_responses_say_their_merge_and_are_never_mixed() -> None:
    engine = Weights()
    app = application(engine, efforts())
    bodies = [{"model": f"qwen@{lam}"} for lam in (0.1, 0.9, "low", 0.1, 0.5, 0.9)] * 4 + [{"model": "qwen"}]
    answers = asyncio.run(asked(app, *bodies))
    expected = [0.1, 0.9, 0.2, 0.1, 0.5, 0.9] * 4 + [0.5]
    for answer, lam in zip(answers, expected):
        assert answer.status_code == 200
        content = answer.json()
        assert (content["began"], content["ended"], content["mi_kernels"]["lam"]) == (lam, lam, lam)
        assert float(answer.headers["x-mi-kernels-lam"]) == lam
        assert int(answer.headers["content-length"]) == len(answer.content)
    assert answers[2].headers["x-mi-kernels-effort"] == "low"
    assert answers[2].json()["mi_kernels"] == {"lam": 0.2, "effort": "low"}
    assert {json.dumps(body) for body in engine.bodies} == {'{"model": "qwen"}'}
    assert sum(call not in ("check", "reset", "resume", "pause wait") for call in engine.calls) <= 4


def test_streams_say_their_merge_in_each_event() -> None:
    engine = Weights()
    answers = asyncio.run(
        asked(application(engine, efforts()), {"stream": True, "lam": 0.3}, {"stream": True, "reasoning_effort": "low"})
    )
    for answer, shown in zip(answers, ({"lam": 0.3}, {"lam": 0.2, "effort": "low"})):
        *events, last = answer.text.strip().split("\n\n")
        assert last == "data: [DONE]"
        for i, event in enumerate(events):
            content = json.loads(event.removeprefix("data: "))
            assert content["mi_kernels"] == shown
            assert (content["part"], content["began"], content["ended"]) == (i, shown["lam"], shown["lam"])
        assert len(events) == 6


def test_a_client_that_goes_gives_up_its_place() -> None:
    engine = Weights()
    app = application(engine, efforts())

    async def test() -> None:
        running = asyncio.create_task(asked(app, {"steps": 50}))
        await asyncio.sleep(0.01)
        leaving = asyncio.create_task(asked(app, {"lam": 0.9}))
        await asyncio.sleep(0)
        leaving.cancel()
        await running
        await asked(app, {"lam": 0.5})

    asyncio.run(test())
    assert engine.lam == 0.5
    assert len(engine.bodies) == 2


def test_a_client_that_goes_while_it_waits_is_never_begun() -> None:
    """As a server reports it: the next message after the body is that the client has gone."""

    async def test() -> None:
        changes: list[Wanted] = []

        async def change(wanted: Wanted) -> None:
            changes.append(wanted)

        turns = Turns(change, Wanted.of(DEFAULT), 10.0)
        layer = EffortLayer(never, SimpleNamespace(mi_kernels_efforts=efforts(), mi_kernels_turns=turns))
        messages = [
            {"type": "http.request", "body": b'{"lam": 0.9}', "more_body": False},
            {"type": "http.disconnect"},
        ]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        async with turns.turn(Wanted.of(DEFAULT)):
            scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
            await asyncio.wait_for(layer(scope, receive, never), 5)
        async with turns.turn(Wanted.of(Recipe(0.1))):
            assert changes == [Wanted.of(Recipe(0.1))]

    async def never(*_: Any) -> None:
        raise AssertionError("nobody is there any more")

    asyncio.run(test())


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"lam": 3}, 400, "lam is 3. Send a number from 0 to 1."),
        ({"model": "qwen@hihg"}, 404, "Did you mean high?"),
        ({"background": True}, 400, "background responses outlive their request"),
    ],
)
def test_refusals_have_vllms_shape(body: dict[str, Any], status: int, words: str) -> None:
    engine = Weights()
    [answer] = asyncio.run(asked(application(engine, efforts()), body))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status)
    assert words in error["message"]
    assert not engine.bodies


def test_what_vllm_refuses_stays_as_it_is() -> None:
    app = application(Weights(), efforts())
    import httpx

    async def test() -> Any:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.post(CHAT, content=b"{not json", headers={"content-type": "application/json"})

    answer = asyncio.run(test())
    assert answer.status_code == 422
    assert "mi_kernels" not in answer.json()


def test_models_are_listed() -> None:
    app = application(Weights(), efforts())
    from fastapi.testclient import TestClient

    answer = TestClient(app).get("/v1/models")
    assert [entry["id"] for entry in answer.json()["data"]] == ["qwen", "qwen@low", "qwen@high"]
    assert answer.json()["data"][1]["owned_by"] == "vllm"


def test_the_route_shows_and_changes_the_default() -> None:
    engine = Weights()
    app = application(engine, efforts())
    from fastapi.testclient import TestClient

    from mi_kernels.integrations.vllm.lam_request import PATH

    client = TestClient(app, client=("127.0.0.1", 1))
    assert client.get(PATH).json() == {
        "lam": 0.5,
        "current": {"lam": 0.5},
        "efforts": {"low": {"lam": 0.2}, "high": {"lam": 0.9, "rules": [{"lam": 0.0, "modules": "attn"}]}},
    }
    assert client.post(CHAT, json={"lam": 0.9}).json()["ended"] == 0.9
    assert client.post(PATH, json={"lam": 0.3}).json()["lam"] == 0.3
    assert client.post(CHAT, json={}).json()["ended"] == 0.3
    refused = client.post(PATH, json={"lam": 0.4, "layers": "9:"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "layers")
    assert client.get(PATH).json()["lam"] == 0.3


def test_without_efforts_nothing_changes() -> None:
    engine = Weights()
    app = application(engine, None)
    from fastapi.testclient import TestClient

    client = TestClient(app)
    answer = client.post(CHAT, json={"model": "qwen@low", "lam": 0.9})
    assert answer.json() == {"id": "x", "began": 0.5, "ended": 0.5}
    assert engine.bodies == [{"model": "qwen@low", "lam": 0.9}]
    assert "x-mi-kernels-lam" not in answer.headers
    assert [entry["id"] for entry in client.get("/v1/models").json()["data"]] == ["qwen"]
