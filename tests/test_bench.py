"""The benchmarks' own machinery on made-up results, and that every subject's cases can be made; nothing is timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bench import goals, harness, peers, plots, report, tables
from bench.goals import Goal
from bench.harness import Result, Run
from bench.subjects import Subject, discover

SUBJECTS = discover()
GOALS = {"a": Goal({1: 1.2, 2: 1.5}, floor=1.0), "b": Goal(most_us=3.0)}


def result(name: str, ours: float, theirs: float, group: str = "a", **more: float) -> Result:
    seconds = {"quernel": ours * 1e-6, "quernel eager": 1e-9, "numpy": theirs * 1e-6, "torch": 1.0}
    return Result(name, seconds, rounds=3, group=group, **more)  # type: ignore[arg-type]


RESULTS = [
    result("fast", 1.0, 4.0, flops=1e5, nbytes=1e4, peak_share=0.9),
    result("fair", 1.0, 1.1, flops=4e5, nbytes=1e4, peak_share=0.5, peak_goal=0.8),
    result("slow", 2.0, 1.0, flops=1e5, nbytes=1e5),
    Result("alone", {"quernel": 5e-6}, group="b"),
]


def made_up(subject: str, threads: int, results: list[Result], **more: object) -> Run:
    machine = {"cpu": "A CPU", "isa": "avx2", "threads": threads, "python": "3.11", "quernel": "0"}
    speeds = {"16 KiB": 200.0, "128 MiB": 10.0}
    return Run(
        subject, machine, {"numpy": "2"}, f"bench {subject}", "2026-01-01", 50.0 * threads, speeds, results,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.fixture
def subjects(monkeypatch: pytest.MonkeyPatch) -> dict[str, Subject]:
    """Three subjects, of which one has goals and a reason."""
    module = ModuleType("bench.fake")
    module.__dict__.update(GOALS=GOALS, REASONS={"slow": "Nobody has *looked*."})
    monkeypatch.setattr(
        Subject, "load", lambda self: module if self.name == "fake" else ModuleType(self.name)
    )
    made = (Subject("fake", "fake", "Help.", True), Subject("words", "words", "", False))
    return {s.name: s for s in (*made, Subject("gone", "gone", "", True))}


def test_a_ratio_is_the_best_peers_time_over_ours() -> None:
    assert RESULTS[0].best_peer == "numpy"
    assert RESULTS[0].ratio == pytest.approx(4.0)
    assert RESULTS[3].ratio is None
    assert goals.geomean([1.0, 4.0]) == pytest.approx(2.0)


def test_goals_are_judged_by_group_and_threads() -> None:
    (summary,) = goals.summaries(RESULTS, GOALS, 2)
    assert (summary.group, summary.cases, summary.target, summary.below) == ("a", 3, 1.5, 1)
    assert summary.geomean == pytest.approx((4.0 * 1.1 * 0.5) ** (1 / 3))
    assert summary.worst is RESULTS[2]
    found = [(m.case, m.wanted, m.severe) for m in goals.misses(RESULTS, GOALS, 2)]
    assert found == [
        ("fair", "80% of peak", True),
        ("slow", "floor 1.00x", True),
        ("alone", "at most 3 us", True),
        ("fair", "target 1.50x", False),
    ]
    assert [m.wanted for m in goals.misses(RESULTS, {}, 2)] == ["80% of peak"]  # a goal of its own


def test_a_miss_tells_what_the_peak_would_give() -> None:
    (fair,) = (m for m in goals.misses(RESULTS, GOALS, 2) if m.wanted == "target 1.50x")
    assert fair.ratio_at_peak == pytest.approx(1.1 / 0.5)
    beyond = dataclasses.replace(RESULTS[1], peak_share=1.2)
    assert beyond.ratio_at_peak is None
    assert RESULTS[2].ratio_at_peak is None


def test_tables_align_and_the_footer_names_what_misses() -> None:
    text = tables.text(tables.result_rows(RESULTS))
    assert len({len(line) for line in text.splitlines()}) == 1
    assert "0.50x" in text
    assert tables.footer(RESULTS, GOALS, 1).splitlines() == [
        "a: geomean 1.30x (target 1.20x) of 3, worst 0.50x slow, 1 below the floor of 1.00x",
        "  fair: 50% of peak, 80% of peak",
        "  slow: 0.50x numpy, floor 1.00x",
        "  alone: 5.0 us, at most 3 us",
    ]


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    run = made_up("fake", 1, RESULTS)
    run.save(tmp_path / "fake-1.json")
    assert Run.load(tmp_path / "fake-1.json") == run
    assert [path.name for path in tmp_path.iterdir()] == ["fake-1.json"]


def test_the_page_holds_what_was_measured(subjects: dict[str, Subject], tmp_path: Path) -> None:
    words = made_up("words", 2, [], text="import 3 ms")
    for name, run in {"fake-1": made_up("fake", 1, RESULTS), "words-2": words}.items():
        run.save(tmp_path / f"{name}.json")
    report.write(subjects, tmp_path, tmp_path)
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "Not measured: gone.\n\nNot measured on 2 threads: fake.\n\n" in page
    assert "Only a few cases" not in page
    assert "- CPU: A CPU, instruction set avx2" in page
    assert "| fake a | 1 | 3 | 1.30x | 1.20x | 0.50x slow | 1.00x | 1 |" in page
    assert "| fake | slow | 1 | 0.50x numpy | floor 1.00x |  | Nobody has *looked*. |" in page
    assert "| fake | alone | 1 | 5.0 us | at most 3 us |  |  |" in page
    assert "### fake, 1 thread, avx2\n\n`bench fake`\n\n| case |" in page
    assert "```\nimport 3 ms\n```" in page
    assert "](roofline.png)" in page
    assert (tmp_path / "roofline.png").stat().st_size > 0
    assert not (tmp_path / "sparsity.png").exists()


def test_the_page_tells_a_quick_look_from_a_run(subjects: dict[str, Subject]) -> None:
    run = made_up("fake", 1, RESULTS)
    run.command += " --quick"
    assert "Only a few cases of: fake." in report.results_page(subjects, [run])


def test_no_misses_and_nothing_measured(subjects: dict[str, Subject]) -> None:
    assert "## Misses\n\nNone." in report.results_page(subjects, [made_up("fake", 1, RESULTS[:1])])
    assert "Not measured: fake, words, gone." in report.results_page(subjects, [])


def test_the_sparsity_plot_has_a_panel_per_isa(tmp_path: Path) -> None:
    results = [result(f"{name} {zeros}", 1.0, 4 * zeros) for name in ("csr", "16x1") for zeros in (0.5, 0.9)]
    for r in results:
        name, zeros = r.name.split()
        r.extra.update(format=name, batch=1, zeros=float(zeros))
    runs = [made_up("sparsity", threads, results) for threads in (1, 2)]
    runs[1].machine["isa"] = "avx512"
    assert plots.sparsity(runs, tmp_path / "plot.png")
    assert not plots.sparsity([made_up("fake", 1, RESULTS)], tmp_path / "none.png")
    assert not plots.roofline(runs, tmp_path / "none.png")
    assert [path.name for path in tmp_path.iterdir()] == ["plot.png"]


def test_a_full_run_takes_cases_at_all_threads_and_survives_failures(
    subjects: dict[str, Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects["fake"] = Subject("fake", "fake", "", True, every_isa=True)
    names = [job.name for job in report.jobs(subjects, [1, 2], ["avx2", "avx512"])]
    assert names == [
        "fake-1-avx2",
        "fake-1-avx512",
        "fake-2-avx2",
        "fake-2-avx512",
        "words-2",
        "gone-1",
        "gone-2",
    ]
    tried: list[str] = []

    def measure(folder: Path, job: report.Job, _rounds: int, _quick: bool) -> str:
        tried.append(job.name)
        if job.subject == "gone":
            return "failed"
        made_up(job.subject, job.threads, RESULTS).save(folder / f"{job.name}.json")
        return ""

    monkeypatch.setattr(report, "_measure", measure)
    assert not report.measure_all(subjects, tmp_path, 3, True)
    assert {job.split("-")[0] for job in tried} == {"fake", "words", "gone"}
    tried.clear()
    assert not report.measure_all(subjects, tmp_path, 3, True)
    assert {job.split("-")[0] for job in tried} == {"gone"}


def test_measuring_rotates_and_keeps_medians() -> None:
    calls = {"quernel": 0, "peer": 0}

    def contender(name: str) -> object:
        def call() -> None:
            calls[name] += 1

        return call

    case = harness.Case("empty", {name: contender(name) for name in calls}, 1.0, 2.0, "a", {"zeros": 0.5})  # type: ignore[misc]
    found = harness.measure(case, 1, 1, 1.0)
    assert set(found.seconds) == set(calls)
    assert min(calls.values()) > 0
    assert (found.name, found.flops, found.nbytes, found.group) == ("empty", 1.0, 2.0, "a")
    assert found.extra["zeros"] == 0.5


def test_subjects_are_found_with_their_help() -> None:
    assert {"gemm", "import", "infer", "sparse", "sparsity", "threads", "train"} <= set(SUBJECTS)
    for subject in SUBJECTS.values():
        assert subject.help.strip(), f"{subject.module} needs a docstring"
    assert SUBJECTS["sparsity"].every_isa
    assert not SUBJECTS["import"].has_cases


@pytest.mark.parametrize("name", [name for name, subject in SUBJECTS.items() if subject.has_cases])
def test_quick_cases_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without peers, which may not be installed and are slow to set up."""
    monkeypatch.setattr(peers, "find", lambda _: None)

    def cases() -> Iterator[harness.Case]:
        yield from SUBJECTS[name].load().cases(1, True)

    wanted = SUBJECTS[name].goals()
    for case in cases():
        case.contenders["quernel"]()
        assert not wanted or case.group in wanted, f"{case.name} is of no group in GOALS"
