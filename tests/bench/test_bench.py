"""The harness itself: what it refuses to time, how it decides, what it counts, and the form of what it writes."""

from __future__ import annotations

import json
import random
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import all as bench_all
from bench import compare, models, registry, results
from bench.files import contestants, grow, merge, ray, safety, turns
from bench.files.process import CommandFailedError, run
from bench.memory import cases as memory
from bench.noise import ratios, signed_rank, spread
from bench.report import markdown as report
from bench.serving import vllm as serving
from mi_kernels.output.synthetic import qwen3_shapes

TINY = models.Layout("tiny", qwen3_shapes(hidden=32, layers=2, ffn=48, heads=2, kv_heads=1, vocab=500), 1, {})


def test_signed_rank_is_wilcoxons() -> None:
    """Against every assignment of signs, counted one by one."""
    found = [1.02, 0.99, 1.05, 1.005, 0.97, 1.08]
    ranked = sorted((abs(ratio - 1), ratio > 1) for ratio in found)
    statistic = sum(rank for rank, (_, above) in enumerate(ranked, 1) if above)
    sums = [sum(rank for rank in range(1, 7) if signs >> (rank - 1) & 1) for signs in range(64)]
    assert signed_rank(found) == sum(total >= statistic for total in sums) / 64
    assert signed_rank([1.1] * 10) == 2**-10
    assert signed_rank([1.0] * 10) == 1.0


def test_a_slowdown_is_an_alarm_and_noise_is_none() -> None:
    rng = random.Random(0)
    alarms = {1.0: 0, 1.01: 0, 1.08: 0}
    for true in alarms:
        for _ in range(200):
            found = [true * rng.lognormvariate(0, 0.03) for _ in range(compare.ROUNDS)]
            alarms[true] += compare.verdict(found, rows=8) == "slower"
    assert alarms[1.0] == 0
    assert alarms[1.01] <= 10, "a real slowdown, but less than is promised to be seen"
    assert alarms[1.08] >= 190
    assert compare.verdict([0.9] * 12, rows=8) == "faster"
    assert compare.verdict([0.9] * 2 + [1.1] * 2, rows=1) == "same"


def test_a_round_asks_both_sides_in_turns_as_often() -> None:
    asked: list[tuple[str, str]] = []

    def side(name: str, seconds: float) -> Any:
        return lambda line: asked.append((name, line)) or str(seconds)

    found = compare.one_round([side("base", 0.001), side("head", 0.0011)], ["some row"])
    assert found == {"some row": pytest.approx(1.1)}
    assert {line for _, line in asked[2:]} == {"5 some row"}
    order = "".join(name[0] for name, _ in asked[2:])
    assert order == ("bhhb" + "hbbh") * 4


def test_the_worker_times_its_own_folder(tmp_path: Path) -> None:
    with compare.Side(compare.REPOSITORY, tmp_path) as worker:
        rows = worker.ask("rows").split("\t")
        assert set(compare.QUICK_ROWS) <= set(rows)
        assert 0 < float(worker.ask(f"2 {rows[0]}")) < 10


def test_what_a_process_took(tmp_path: Path) -> None:
    path = tmp_path / "some"
    code = "held = b'x' * 50_000_000; import pathlib, time; time.sleep(0.2)"
    command = f"python -c \"{code}; pathlib.Path('{path}').write_bytes(held)\" && cat {path} > /dev/null"
    found = run(["sh", "-c", command.replace("python", __import__("sys").executable)])
    assert 0.2 < found.wall < 60
    assert found.written >= 100_000_000
    assert found.read >= 50_000_000
    held = run([__import__("sys").executable, "-c", code])
    assert 50_000_000 < held.anonymous < held.resident < 100_000_000
    with pytest.raises(CommandFailedError, match=r"ended with 3:\nwhy"):
        run(["sh", "-c", "echo why; exit 3"])


def test_inputs_are_made_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = models.checkpoint(tmp_path, TINY, seed=1)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert models.checkpoint(tmp_path, TINY, seed=1) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert models.checkpoint(tmp_path, TINY, seed=2) != first

    def interrupted(path: Path, *_: Any, **__: Any) -> None:
        path.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "write_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        models.checkpoint(tmp_path, TINY, seed=3)
    monkeypatch.undo()
    assert (models.checkpoint(tmp_path, TINY, seed=3) / "model.safetensors").exists()


def test_a_model_shrinks_to_the_disk_with_all_its_tensors() -> None:
    found = models.layout("30B-A3B", 1_000_000_000)
    assert len(found.shapes) == 18_867
    assert 0.9e9 < found.nbytes < 1.1e9
    assert found.shrink == 62
    assert models.layout("0.6B", 1 << 40).shrink == 1


def test_a_wrong_merge_is_never_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contestants.Bench(tmp_path, TINY) as bench:
        assert bench.differing("ours") == 0
        assert 0.2 < bench.differing("paper") < 0.4
        real = bench.command
        off = {"ours": [*real("ours"), "--modules", "attn"]}
        monkeypatch.setattr(bench, "command", lambda name: off.get(name) or real(name))
        monkeypatch.setattr(bench, "time", lambda *_: pytest.fail("timed"))
        with pytest.raises(SystemExit, match="ours differs from the contract in"):
            turns.measure(bench, ["ours", "cp"], 1, ["warm"], "tiny")


def test_wrong_bits_in_memory_are_never_timed() -> None:
    case = memory.Case([1000, 0, 37], "bf16", "some tensors")
    for name, make in memory.LISTED.items():
        share = memory.checked(case, name, make(case, 1))
        assert (share is None) == (name == "roofline")
        if name.startswith("ours"):
            assert share == 0

    def off_by_a_bit() -> Any:
        outs = [torch.lerp(x.float(), y.float(), memory.LAM).bfloat16() for x, y in zip(case.a, case.b)]
        outs[2].view(torch.int16)[-1] ^= 1
        return outs

    assert memory.checked(case, "torch", off_by_a_bit) == pytest.approx(1 / 1037)
    with pytest.raises(memory.WrongBitsError, match="some tensors: ours differs from the contract in 1 elements"):
        memory.checked(case, "ours", off_by_a_bit)
    with pytest.raises(memory.WrongBitsError, match="did not compute the interpolation"):
        memory.checked(case, "torch", lambda: case.a)


@pytest.mark.parametrize("dtype", memory.DTYPES)
def test_every_contestant_in_memory_interpolates(dtype: str) -> None:
    case = memory.Case([4099], dtype, "one")
    for name, make in memory.SINGLE.items():
        memory.checked(case, name, make(case, 2))
    for isa in memory._cpu.isas():
        assert memory.checked(case, "ours", memory.kernel(case, isa)) == 0


def test_a_merge_is_measured_and_written_in_the_one_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    options = ["--most", "0.01", "--rounds", "2", "--folder", str(tmp_path), "--json", str(path)]
    merge.main(options)
    found = results.load(path)
    assert found["command"] == "python -m bench.files.merge --most 0.01 --rounds 2"
    rows = {row["name"]: row for row in found["rows"]}
    assert list(rows) == ["ours", "disk", "cp"]
    assert rows["cp"]["of_cp"] == {"min": 1, "median": 1, "max": 1, "rounds": 2}
    assert rows["ours"]["differing"] == 0
    written = found["settings"]["bytes"]
    assert all(row["written"]["min"] >= written for row in rows.values())
    assert "Qwen3-0.6B / 120, warm: ours" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["found.json", "inputs"]


def test_a_safeguard_taken_out_changes_no_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "found.json"
    safety.main(["--most", "0.01", "--rounds", "2", "--folder", str(tmp_path), "--json", str(path)])
    rows = {row["name"]: row for row in results.load(path)["rows"]}
    assert list(rows) == ["ours", "without checksums", "without looking at values"]
    assert rows["ours"]["costs"] == {"min": 1, "median": 1, "max": 1, "rounds": 2}
    assert safety.table(list(rows.values())) in capsys.readouterr().out
    with safety.Safety(tmp_path, TINY) as bench:
        sums = {}
        for name in safety.WAYS:
            assert bench.differing(name) == 0
            run(bench.command(name))
            sums[name] = len((bench.out / "mi_kernels.checksums.json").read_bytes())
            bench.clear()
    assert sums["without checksums"] < sums["ours"] == sums["without looking at values"]


def test_what_vllm_and_ray_take_is_of_the_one_form() -> None:
    starts = {"plain": [2.0, 3.0], "merged": [2.5, 3.5], "read": [0.5, 0.5]}
    changes = {"pass": [0.1, 0.1], "reload": [0.3, 0.1], "set_lam": [0.4, 0.4]}
    found = results.record("serving", "python -m bench.serving", {}, serving._rows(starts, changes))
    assert "| 3.000 (2.500 - 3.500) | 1.00 (1.00 - 1.00) |" in report.section("serving", found)
    times = {"plain": [(1.0, 1.5), (1.0, 1.5)], "ray, 1 worker": [(1.2, 4.0), (1.4, 5.0)]}
    found = results.record("ray", "python -m bench.files.ray", {}, ray._rows(times))
    assert "1.30 (1.20 - 1.40) | 4.50 (4.00 - 5.00) | 1.30 (1.20 - 1.40) |" in report.section("ray", found)


def test_one_pass_over_many_lam_is_checked_in_every_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with grow.Lams(tmp_path, TINY) as bench:
        bench.check()
        monkeypatch.setattr(grow, "LAMS", [*grow.LAMS[:-1], 0.123])
        command = bench.command("ours 13")
        monkeypatch.setattr(bench, "command", lambda _: [part.replace("0.123", "0.124") for part in command])
        monkeypatch.setattr(grow, "differing", lambda a, b, out, lam: 0.0 if out.exists() else 1.0)
        with pytest.raises(SystemExit, match=r"lam 0.123 differs"):
            bench.check()


def test_what_is_not_of_the_form_is_refused(tmp_path: Path) -> None:
    good = results.record(
        "merge", "python -m bench.files.merge", {}, [{"group": "g", "name": "n", "x": spread([2.0, 1.0])}]
    )
    results.save(tmp_path / "good.json", good)
    assert results.load(tmp_path / "good.json") == json.loads(json.dumps(good))
    for change in (
        {"machine": {}},
        {"rows": [{"group": "g"}]},
        {"rows": [{"group": "g", "name": "n", "x": {"median": 1}}]},
        {"rows": [{"group": "g", "name": "n", "x": {"min": 2, "median": 1, "max": 3, "rounds": 3}}]},
        {"rows": [{"group": "g", "name": "n", "x": [1.0]}]},
    ):
        with pytest.raises(ValueError, match=r"result|machine|group|spread|order|figure"):
            results.save(tmp_path / "bad.json", {**good, **change})
    assert not (tmp_path / "bad.json").exists()


def test_a_module_registers_its_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "extra"
    (folder / "disks").mkdir(parents=True)
    (folder / "disks" / "seeks.py").write_text(
        "from bench.registry import Benchmark, Step\n\n"
        "STEPS = {'seeks': Step(quick=['--few'])}\n"
        "BENCHMARK = Benchmark(name='seeks', command='extra.disks.seeks', table=str, steps=STEPS)\n"
    )
    (folder / "disks" / "other.py").write_text("raise AssertionError('imported')\n")
    found = registry.declaring(folder)
    assert found == ["extra.disks.seeks"]
    names = [*registry.declaring(), *found]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "declaring", lambda: names)
    registry.benchmarks.cache_clear()
    try:
        line = bench_all.command("seeks", tmp_path, quick=True, work="some")
        assert line[2:] == ["extra.disks.seeks", "--few", "--json", str(tmp_path / "seeks.json"), "--folder", "some"]
        names.append("extra.disks.seeks")
        registry.benchmarks.cache_clear()
        with pytest.raises(ValueError, match="declared by two benchmarks: seeks"):
            registry.benchmarks()
    finally:
        registry.benchmarks.cache_clear()


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of every benchmark names its command, and the options that `bench.all` passes."""
    for name in registry.declaring():
        module = import_module(name)
        benchmark = module.BENCHMARK
        path = compare.REPOSITORY / benchmark.command.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()
        if name == "bench.files.grow":
            continue  # run by the command of bench.files.merge
        with pytest.raises(SystemExit):
            module.main(["--help"])
        text = capsys.readouterr().out
        assert text.startswith(f"usage: python -m {benchmark.command} ")
        if benchmark.steps:
            assert "--json" in text
            assert ("--folder" in text) == benchmark.takes_folder


def test_a_result_without_a_benchmark_is_refused() -> None:
    found = results.record("other", "python -m bench.other", {}, [])
    with pytest.raises(
        ValueError, match="no benchmark is registered as 'other'; registered: efforts, grow, instructions,"
    ):
        report.section("other", found)


def test_a_result_names_the_command_of_today(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    for measured, today in (
        ("python -m bench.merge --cold", "python -m bench.files.merge --cold"),
        ("python -m bench.serving", "python -m bench.serving"),
        ("python -m bench.files.ray", "python -m bench.files.ray"),
    ):
        results.save(path, results.record("merge", measured, {}, []))
        assert results.load(path)["command"] == today


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([2.0, 6.0, 3.0], [1.0, 2.0, 3.0]) == {"min": 1, "median": 2, "max": 3, "rounds": 3}
    with pytest.raises(ValueError, match="argument"):
        ratios([1.0], [1.0, 2.0])


def test_all_names_results_by_step(tmp_path: Path) -> None:
    for step, (benchmark, _) in bench_all.steps().items():
        line = bench_all.command(step, tmp_path, quick=True, work="some")
        assert line[1:3] == ["-m", benchmark.command]
        assert line[line.index("--json") + 1] == str(tmp_path / f"{step}.json")
        assert ("some" in line) == (benchmark.name != "memory")
    assert grow.thread_counts(2) == [1, 2]
    assert grow.thread_counts(12) == [1, 2, 4, 8, 12]
    assert grow.thread_counts(1) == [1]
