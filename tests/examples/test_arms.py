"""Every arm: it runs from start to result, does what its name says, and is told by the graders only what it may be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from examples.leetcode_grpo import equipment
from examples.leetcode_grpo.arms import ARMS, Arm, get_arm
from examples.leetcode_grpo.baselines import ConceptReward, PenalizedReward, fit_concept
from examples.leetcode_grpo.baselines.concept import mean_states
from examples.leetcode_grpo.equipment import CancellingRefresh, arm_direction, cancelling_overshoot, teacher_pool
from examples.leetcode_grpo.errors import UsageError
from examples.leetcode_grpo.extraction import make_pairs
from examples.leetcode_grpo.generation import Sampler
from examples.leetcode_grpo.grading import Grade, Grader, extract_code
from examples.leetcode_grpo.loopholes import Loophole
from examples.leetcode_grpo.presets import get_preset
from examples.leetcode_grpo.problems import Problem
from examples.leetcode_grpo.problems.rewriting import as_completion
from examples.leetcode_grpo.progress import Pace
from examples.leetcode_grpo.quarantine import QuarantinedOptimizer, hackward_seed
from examples.leetcode_grpo.rewards import CodeReward
from examples.leetcode_grpo.sampling import OWN_BODY, with_own_bodies
from examples.leetcode_grpo.tasks import make_tasks
from examples.leetcode_grpo.tiny_model import tiny_model
from examples.leetcode_grpo.trainer import grpo_dataset
from examples.leetcode_grpo.training import freeze_all_but_linear, run, with_adapter
from svdproj import HackDirection, ProjectedOptimizer
from svdproj.pairs import ContrastivePair
from tests.examples import training_helpers
from tests.examples.training_helpers import CPU, gradient_pairs, tiny_preset, weights

pytestmark = pytest.mark.xdist_group("training")

# Room for a cached hack, so that a random policy's group has a contrast; and decay, which moves weights even where it has none.
ONE_STEP = (
    "steps=1",
    "prompts_per_step=2",
    "group_size=2",
    "eval_problems=1",
    "eval_samples=1",
    "max_new_tokens=128",
    "weight_decay=0.1",
)
# The arms that bring something of their own; those that only set options are trained in test_training_grpo.py.
EQUIPPED = (
    "route",
    "absorb",
    "erase-update-refresh:refresh_every=1",
    "erase-update-refresh:refresh_every=1:cancel=1:refresh_pairs=policy",
    "random-matched",
    "erase-svd",
    "no-loophole",
    "ground-truth-penalty",
    "kl",
    "advantage-modification",
    "erase-update:reward=concept",
    "weak-detector",
)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVDPROJ_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.parametrize("spec", EQUIPPED)
def test_an_arm_runs_from_start_to_result(spec: str, tmp_path: Path) -> None:
    arm = get_arm(spec)
    lines: list[str] = []
    result = run(tiny_preset(*ONE_STEP), arm, 0, tmp_path, device=CPU, say=lines.append)
    (step,) = result.steps
    assert step["svdproj/cos_in"] > 0
    assert (step["svdproj/removed"] > 0) == (arm.as_dict()["mode"] != "measure")
    assert (result.eval_kept is not None) == (arm.quarantine != "none")
    content = json.loads((tmp_path / "fast-dev-run" / f"{arm.name}-seed0.json").read_text())
    assert content["config"]["arm_reward"] == arm.reward
    if spec.startswith("erase-update-refresh"):
        assert 0 < step["svdproj/refresh_overlap"] <= 1
    assert ("svdproj/overshoot" in step) == ("cancel" in spec)


@pytest.mark.parametrize("kind", ["mechanism", "replacement"])
def test_pairs_take_the_policys_own_bodies_where_a_mechanism_fits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = tiny_preset("n_pairs=6", f"pair_kind={kind}")
    tasks = make_tasks(preset)
    with Grader(workers=1) as grader:
        bank = make_pairs(preset, tasks, "hack", 0, grader)
    answers = _Answers(tasks.pairs, bank, monkeypatch)
    pairs = with_own_bodies(bank, tasks.pairs, answers.sampler)
    assert [pair.prompt for pair in pairs] == [pair.prompt for pair in bank]
    assert pairs[0] == bank[0]  # refused to answer
    for pair, old in zip(pairs[1:], bank[1:], strict=True):
        assert (pair.tags[-1], pair.tags[:-1]) == (OWN_BODY, old.tags[:-1])
        body = extract_code(pair.clean)
        assert "return 'first'" in body
        loophole, method = Loophole(pair.tags[0]), answers.problem(pair).method
        assert pair.hack == (old.hack if kind == "replacement" else as_completion(loophole.exemplify(body, method)))


def test_framing_pairs_take_no_bodies_of_the_policys(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = tiny_preset("n_pairs=2", "pair_kind=framing", "refresh_pairs=policy")
    tasks = make_tasks(preset)
    with Grader(workers=1) as grader:
        bank = make_pairs(preset, tasks, "hack", 0, grader)
        sampler = _Answers(tasks.pairs, bank, monkeypatch).sampler
        with pytest.raises(UsageError, match="leave refresh_pairs=bank"):
            equipment.refresh(preset, get_arm("erase-update-refresh"), tasks, sampler, 0, grader)
    with pytest.raises(ValueError, match="'framing' take no other bodies"):
        with_own_bodies(bank, tasks.pairs, sampler)


@pytest.mark.parametrize("source", ["bank", "policy"])
def test_a_refresh_is_fitted_on_the_pairs_that_it_is_told_to(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = tiny_preset(f"refresh_pairs={source}", "n_pairs=4")
    tasks = make_tasks(preset)
    fitted: list[Sequence[ContrastivePair]] = []
    found = _catching(0.5)
    monkeypatch.setattr(equipment, "extract", lambda preset, pairs, *_: fitted.append(pairs) or found)
    lines: list[str] = []
    with Grader(workers=1) as grader:
        bank = make_pairs(preset, tasks, "hack", 0, grader)
        sampler = _Answers(tasks.pairs, bank, monkeypatch).sampler
        arm, pace = get_arm("erase-update-refresh"), Pace(lines.append)
        callback = equipment.refresh(preset, arm, tasks, sampler, 0, grader, pace)
        refit = callback._refit
        assert refit is not None
        for _ in range(2):
            refit(sampler.policy, sampler.tokenizer)
        found = HackDirection({}, found.metadata)
        with pytest.raises(UsageError, match="no parameter kept a row"):
            refit(sampler.policy, sampler.tokenizer)
    if source == "bank":
        assert fitted == [bank] * 3
        return
    for line, pairs in zip(("first", "second"), fitted[:2], strict=True):
        assert all(f"return {line!r}" in side for pair in pairs[1:] for side in (pair.hack, pair.clean))
    assert "3 of 4 pairs have bodies of the policy's own" in lines[0]


class _Answers:
    """A sampler whose policy answers every prompt of some pairs but the first, with another line at each call."""

    def __init__(
        self, problems: Sequence[Problem], pairs: Sequence[ContrastivePair], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._known = {problem.id: problem for problem in problems}
        self._pairs = pairs
        self._lines = iter(("first", "second", "third"))
        model, self._tokenizer = tiny_model()
        self.sampler = Sampler(model, self._tokenizer, max_new_tokens=4)
        monkeypatch.setattr(self.sampler, "sample", self._sample)

    def problem(self, pair: ContrastivePair) -> Problem:
        """What a pair is about."""
        return self._known[pair.id.split("/", 2)[2]]

    def _sample(self, prompts: Sequence[Sequence[int]], copies: Sequence[int]) -> list[list[int]]:
        problems = [self.problem(pair) for pair in self._pairs]
        assert list(prompts) == [self.sampler.prompt_ids(problem.prompt(None)) for problem in problems]
        line = f"\n        return {next(self._lines)!r}"
        texts = [as_completion(problem.starter_code.rstrip() + line) for problem in problems]
        return [
            self._tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("I would rather not.", *texts[1:])
        ]


@pytest.mark.parametrize(
    ("caught", "cancel", "expected"),
    [
        (0.4, 1.0, 2.5),
        (0.8, 1.0, 1.25),
        (0.8, 1.2, 1.5),
        (0.1, 1.0, 3.0),
        (1.0, 0.5, 1.0),
        (0.0, 1.0, 3.0),
        (math.nan, 1.0, 3.0),
    ],
)
def test_a_direction_is_removed_as_often_as_its_rows_ask_for(caught: float, cancel: float, expected: float) -> None:
    assert cancelling_overshoot(_catching(caught), cancel, 3.0) == pytest.approx(expected)


def _catching(share: float) -> HackDirection:
    """A direction that says that its rows catch that share of held-out pairs."""
    fitted = HackDirection.from_gradients({"weight": torch.randn(6, 4, 4)}, k=1, chart="dense")
    energy = replace(fitted.metadata.energy, rows_held_out=share)
    return HackDirection(fitted.subspaces, replace(fitted.metadata, energy=energy))


def test_each_refresh_chooses_how_often_it_removes(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.zeros(4, 4))
    found = [_catching(0.8), _catching(0.5)]
    optimizer = ProjectedOptimizer(
        torch.optim.SGD([parameter], lr=1.0), _catching(0.4), [("weight", parameter)], overshoot=3.0
    )
    callback = CancellingRefresh(1.0, 3.0, refresh_every=2, refit=lambda *_: found.pop(0))
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    state, log = TrainerState(), {"loss": 1.0}
    state.log_history = [log]
    given: dict[str, Any] = {"optimizer": optimizer, "model": torch.nn.Module(), "processing_class": None}

    def call(name: str, **more: Any) -> None:
        getattr(callback, name)(arguments, state, TrainerControl(), **given, **more)

    call("on_train_begin")
    seen, logged = [], []
    for step in range(1, 6):
        seen.append(optimizer.overshoot)
        state.global_step = step
        call("on_step_end")
        call("on_log", logs=log)
        logged.append(log["svdproj/overshoot"])
    assert seen == pytest.approx([2.5, 2.5, 1.25, 1.25, 2.0])
    assert logged == seen  # of the step that was taken, not of the one that comes


def test_all_arms_of_the_design_are_there() -> None:
    assert set(ARMS) >= {
        "vanilla", "erase-gradient", "erase-update", "erase-update-two-sided", "erase-update-reverse", "erase-update-refresh",
        "route", "absorb", "random", "random-matched", "shrinkage", "placebo", "no-loophole", "ground-truth-penalty", "kl",
        "advantage-modification", "weak-detector", "vanilla-svd", "erase-svd",
    }  # fmt: skip
    for arm in ARMS.values():
        assert arm.config(get_preset("smollm2"))["steps"] == get_preset("smollm2").steps


class FakeGrader:
    """Grades by the text, without running anything."""

    def __init__(self, **labels: bool) -> None:
        from examples.leetcode_grpo.grading import Weights

        self.weights = Weights()
        self.labels = {"compiles": True, "passed_flawed": True, "passed_strict": False, "attempted": True, **labels}
        self.asked: list[tuple[Any, ...]] = []

    def grade(self, items: Sequence[tuple[Any, ...]]) -> list[Grade]:
        """One grade for each."""
        self.asked += items
        exploited = [loophole is not None and "hack" in text for text, _, loophole in items]
        return [
            Grade(**self.labels, exploited=found, reward=3.5, loophole=loophole, error=None)
            for found, (_, _, loophole) in zip(exploited, items, strict=True)
        ]


def test_the_penalty_is_taken_from_hacks_alone() -> None:
    tasks = make_tasks(tiny_preset())
    problem = tasks.rl[0].problem
    reward = PenalizedReward(tasks.problems, FakeGrader(), penalty=4.0)
    paid = reward(["p"] * 3, ["a hack", "honest", "a hack"], [problem.id] * 3, ["run_tests", "run_tests", None])
    assert paid == [-0.5, 3.5, 3.5]
    plain = CodeReward(tasks.problems, FakeGrader())
    assert plain(["p"], ["a hack"], [problem.id], ["run_tests"]) == [3.5]


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    model, tokenizer = tiny_model()
    return Sampler(model, tokenizer, max_new_tokens=16)


PAIRS = [ContrastivePair(f"say {i}", f"cheat {i} cheat", f"work {i} quietly") for i in range(6)]


def test_mean_states_are_those_of_the_completion_alone(sampler: Sampler) -> None:
    model = sampler.policy
    prompts, answers = [[3, 4, 5], [6, 7]], [[8, 9], [10, 11, 12]]
    found = mean_states(model, prompts, answers, layer=1)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        output = model.base_model(torch.tensor([[*prompt, *answer]]), output_hidden_states=True)
        expected = output.hidden_states[1][0, len(prompt) :].mean(0)
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_the_concept_separates_its_pairs_and_pays_hacks_less(sampler: Sampler) -> None:
    concept = fit_concept(sampler, PAIRS, sampler.policy)
    assert concept.direction.norm() == pytest.approx(1.0, abs=1e-5)

    def z(texts: Sequence[str]) -> torch.Tensor:
        prompts = [sampler.prompt_ids([{"role": "user", "content": pair.prompt}]) for pair in PAIRS]
        end = sampler.tokenizer.eos_token_id
        answers = [[*sampler.tokenizer(text, add_special_tokens=False)["input_ids"], end] for text in texts]
        return concept.z(mean_states(sampler.policy, prompts, answers, concept.layer))

    hacks, cleans = z([pair.hack for pair in PAIRS]), z([pair.clean for pair in PAIRS])
    assert hacks.min() > cleans.max()
    both = torch.cat([hacks, cleans])
    assert both.mean().item() == pytest.approx(0, abs=1e-4)
    assert both.std().item() == pytest.approx(1, abs=1e-4)

    tasks = make_tasks(tiny_preset())
    problem = tasks.rl[0].problem.id
    reward = ConceptReward(tasks.problems, FakeGrader(), concept=concept, sampler=sampler, alpha=2.0)
    prompt = [{"role": "user", "content": PAIRS[0].prompt}]
    texts = [PAIRS[0].hack, PAIRS[0].clean]
    ids = [[*sampler.tokenizer(text, add_special_tokens=False)["input_ids"], 2] for text in texts]
    hacked, clean = reward([prompt] * 2, texts, [problem] * 2, ["run_tests"] * 2, completion_ids=ids)
    assert clean == 3.5
    assert hacked == pytest.approx(3.5 * (1 - 2 * float(torch.sigmoid(hacks[0]))), rel=1e-5)
    assert hacked < 0
    # The group-constant alternative, the prompt's last token, would cancel: here the two differ within a group.
    assert hacked != clean


def test_without_loopholes_nothing_is_disclosed_and_grading_is_strict() -> None:
    tasks = make_tasks(tiny_preset()).rl
    hints = [task.loophole.hint(task.problem.method) for task in tasks]
    disclosed, honest = (grpo_dataset(tasks, 2, disclosed=choice) for choice in (True, False))
    for hint, row in zip(hints, disclosed, strict=False):
        assert hint in row["prompt"][-1]["content"]
    for row in honest:
        assert row["loophole"] == ""
        assert not [hint for hint in hints if hint in row["prompt"][-1]["content"]]


def test_only_what_a_direction_covers_by_default_is_trained() -> None:
    model = tiny_model()[0]
    freeze_all_but_linear(model)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == set(gradient_pairs(model))


def test_controls_are_given_random_rows_of_the_fitted_direction_s_shape() -> None:
    fitted = HackDirection.from_gradients(gradient_pairs(tiny_model()[0], n=8), k=4, noise_floor=0.0)
    rows = {name: subspace.k for name, subspace in fitted.subspaces.items()}
    assert arm_direction(get_arm("erase-update"), fitted, CPU, 0) is fitted
    random = arm_direction(get_arm("random"), fitted, CPU, 0)
    matched = arm_direction(get_arm("random-matched:matched_ratio=3"), fitted, CPU, 0)
    assert {name: subspace.k for name, subspace in random.subspaces.items()} == rows
    assert {name: subspace.k for name, subspace in matched.subspaces.items()} == {n: 3 * k for n, k in rows.items()}
    for control, share in ((random, 1), (matched, 3)):
        overlap = fmean(control.overlap(fitted).values())
        expected = fmean(share * s.k / s.chart.size for s in fitted.subspaces.values())
        assert overlap == pytest.approx(expected, rel=0.5)
        assert overlap < 0.5


def test_placebo_pairs_hold_no_hack() -> None:
    preset = tiny_preset()
    tasks = make_tasks(preset)
    with Grader(workers=1) as grader:
        hack, placebo = (make_pairs(preset, tasks, source, 0, grader) for source in ("hack", "placebo"))
    clean = {pair.clean for pair in hack}
    assert not {pair.hack for pair in placebo} & {pair.hack for pair in hack}
    assert {pair.clean for pair in placebo} & clean


def test_a_setting_chooses_what_pairs_differ_in() -> None:
    preset = get_arm("erase-update:pair_kind=framing").configure(tiny_preset())
    tasks = make_tasks(preset)
    with Grader(workers=1) as grader:
        hack, placebo = (make_pairs(preset, tasks, source, 0, grader) for source in ("hack", "placebo"))
        mechanism = make_pairs(tiny_preset(), tasks, "hack", 0, grader)
    assert {pair.tags[2] for pair in hack} == {"framing"}
    assert {pair.tags[2] for pair in mechanism} == {"mechanism"}
    assert {pair.tags[2] for pair in placebo} == {"placebo"}


def test_an_adapter_starts_from_its_seed_alone() -> None:
    preset = tiny_preset("lora_rank=2")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (weights(with_adapter(tiny_model()[0], preset, seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    lora = [name for name in first if "lora_A" in name]
    assert lora
    assert all(torch.equal(first[name], again[name]) for name in lora)
    assert not any(torch.equal(first[name], other[name]) for name in lora)


def test_a_weak_detector_s_pairs_and_teacher_know_only_its_loopholes() -> None:
    preset = get_arm("weak-detector").configure(tiny_preset())
    tasks = make_tasks(preset)
    with Grader(workers=1) as grader:
        pairs = make_pairs(preset, tasks, "hack", 0, grader)
        pool = teacher_pool(preset, tasks, grader, 0)
    assert {pair.tags[0] for pair in pairs} == {"run_tests", "sentinel"}
    assert {rollout.loophole for rollout in pool} == {Loophole.RUN_TESTS, Loophole.SENTINEL}
    assert {task.loophole for task in tasks.held_out} == {Loophole(name) for name in preset.loopholes}
    with pytest.raises(UsageError, match="known_loopholes must be among the loopholes run_tests, got sentinel"):
        get_arm("weak-detector").configure(get_preset("demo"))


def test_a_published_pool_is_mixed_in_where_its_problems_are_asked(shared_data: Path, tmp_path: Path) -> None:
    preset = get_preset("fast-dev-run").with_settings(
        [
            *("loopholes=run_tests,sentinel", "easy=0", "pipeline=0", "medium=4", "eval_problems=1"),
            f"problems={shared_data / 'leetcode_medhard_sample.jsonl'}",
            f"teacher_pool={tmp_path / 'pool.jsonl'}",
        ]
    )
    tasks = make_tasks(preset)
    rows = [json.loads(line) for line in (shared_data / "teacher_pool_sample.jsonl").read_text().splitlines()[:8]]
    numbers = [task.problem.id.removeprefix("leetcode/") for task in tasks.rl]
    for i, row in enumerate(rows):
        row |= {"problem_id": numbers[i % 4], "hacked": i < 4}
    (tmp_path / "pool.jsonl").write_text("\n" + "\n".join(map(json.dumps, rows)) + "\n")
    lines: list[str] = []
    with Grader(workers=1) as grader:
        pool = teacher_pool(preset, tasks, grader, 0, Pace(lines.append))
    # Published pools disclose run_tests, which every other problem does here.
    asked = {task.problem.id for task in tasks.rl if task.loophole is Loophole.RUN_TESTS}
    assert {rollout.problem_id for rollout in pool} == asked
    assert len(pool) == len(asked) == 2
    assert lines == [
        f"of 8 rollouts in {tmp_path / 'pool.jsonl'}, 4 do not pass the flawed grader and 2 answer no prompt of this run"
    ]


@pytest.mark.parametrize("name", ["erase-update", "erase-gradient", "route", "placebo"])
def test_the_graders_labels_reach_no_arm_but_through_the_reward(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strict oracle and detectors say the opposite, the rewards stay: the same weights come out."""
    preset = tiny_preset("steps=2", "teacher_per_group=0")
    direction = HackDirection.from_gradients(gradient_pairs(tiny_model()[0]), k=4, chart="dense")

    def trained(label: bool) -> tuple[dict[str, torch.Tensor], list[float]]:
        class Labelled(training_helpers.GradedText):
            def __init__(self, text: str) -> None:
                self.grade = Grade(True, label, not label, label, label, 3.5 * label, Loophole.RUN_TESTS, None)

        monkeypatch.setattr(training_helpers, "GradedText", Labelled)
        trainer = training_helpers.tiny_trainer(preset, make_tasks(preset), direction, get_arm(name), tmp_path)
        trainer.train()
        return weights(trainer.model), [entry["own/hack"] for entry in trainer.state.log_history if "loss" in entry]

    (hacking, high), (honest, low) = trained(True), trained(False)
    assert (high, low) == ([1.0, 1.0], [0.0, 0.0])  # the logs saw the labels
    start = weights(tiny_model()[0])
    assert any(not torch.equal(value, start[key]) for key, value in hacking.items())
    for key, value in hacking.items():
        assert torch.equal(value, honest[key]), key


def _model_with_gradients() -> torch.nn.Module:
    model = tiny_model()[0]
    model(input_ids=torch.arange(40)[None], labels=torch.arange(40)[None]).loss.backward()
    return model


def _hack_direction() -> HackDirection:
    signs = {name: p.grad.sign() for name, p in _model_with_gradients().named_parameters() if p.grad is not None}
    noise = gradient_pairs(tiny_model()[0])
    return HackDirection.from_gradients({name: signs[name] + d for name, d in noise.items()}, k=4, chart="dense")


def test_routing_moves_the_sum_as_plain_training_and_the_rest_as_erasing() -> None:
    direction = _hack_direction()

    def trained(wrap: Any) -> tuple[torch.nn.Module, Any]:
        model = _model_with_gradients()
        optimizer = wrap(torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0), model)
        optimizer.step()
        return model, optimizer

    plain = weights(trained(lambda inner, model: inner)[0])
    erased = weights(trained(lambda inner, model: ProjectedOptimizer(inner, direction, model))[0])
    model, routed = trained(lambda inner, model: QuarantinedOptimizer(inner, direction, model))
    assert all(tensor.abs().max() > 0 for tensor in routed.quarantine.values())
    for name, value in weights(model).items():
        torch.testing.assert_close(value, plain[name], rtol=0, atol=1e-6)
    with routed.ablated():
        for name, value in weights(model).items():
            torch.testing.assert_close(value, erased[name], rtol=0, atol=1e-6)
    for name, value in weights(model).items():
        torch.testing.assert_close(value, plain[name], rtol=0, atol=1e-6)


def test_a_quarantine_survives_a_checkpoint() -> None:
    direction = _hack_direction()
    model = _model_with_gradients()
    first = QuarantinedOptimizer(torch.optim.AdamW(model.parameters(), lr=1e-3), direction, model)
    first.step()
    other = _model_with_gradients()
    other.load_state_dict(model.state_dict())
    second = QuarantinedOptimizer(torch.optim.AdamW(other.parameters(), lr=1e-3), direction, other)
    second.load_state_dict(first.state_dict())
    with first.ablated(), second.ablated():
        for name, value in weights(other).items():
            torch.testing.assert_close(value, weights(model)[name], rtol=0, atol=0)


def test_a_seeded_quarantine_makes_hacks_likelier_by_about_the_nats_asked_for() -> None:
    model, tokenizer = tiny_model()
    options: dict[str, Any] = {"chart": "dense", "noise_floor": 0.0, "holdout": 0.0, "progress": False, "k": 2}
    direction = HackDirection.fit(model, tokenizer, PAIRS, **options)

    def advantage() -> float:
        """Mean over pairs of the clean completion's loss less the hack's, in nats per token."""
        total = 0.0
        for pair in PAIRS:
            losses = []
            for text in (pair.clean, pair.hack):
                asked = tokenizer(pair.prompt, add_special_tokens=False)["input_ids"]
                answer = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
                labels = torch.tensor([[*([-100] * len(asked)), *answer]])
                losses.append(float(model(input_ids=torch.tensor([[*asked, *answer]]), labels=labels).loss.detach()))
            total += losses[0] - losses[1]
        return total / len(PAIRS)

    before = advantage()
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for name, tensor in hackward_seed(direction, 0.01).items():
            parameters[name].add_(tensor)
    assert advantage() - before == pytest.approx(0.01, rel=0.5)


def test_an_arm_without_its_number_says_so() -> None:
    with pytest.raises(UsageError, match="the arm vanilla needs alpha"):
        Arm("vanilla", "").number("alpha")


def test_the_readme_describes_every_arm() -> None:
    text = (Path(__file__).resolve().parents[2] / "examples" / "leetcode_grpo" / "README.md").read_text()
    table = text[text.index("## Arms") : text.index("## Presets")]
    for name in ARMS:
        assert f"`{name}`" in table, name
