"""The wrapper is a `torch.optim.Optimizer` in every respect."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from svdproj import HackDirection, ProjectedOptimizer
from tests.conformance.helpers import (
    Weights,
    assert_same,
    assert_same_training,
    assert_update_guarantee,
    backward,
    copies,
    direction_for,
    train,
)


def make(**options: Any) -> tuple[Weights, torch.optim.AdamW, ProjectedOptimizer]:
    model = Weights()
    inner = torch.optim.AdamW(model.parameters(), lr=0.01)
    return model, inner, ProjectedOptimizer(inner, direction_for(model), model, **options)


def test_groups_state_and_defaults_are_the_inner_optimizers_own_objects() -> None:
    model, inner, wrapped = make()
    train(model, wrapped, range(2))

    def check() -> None:
        assert isinstance(wrapped, torch.optim.Optimizer)
        assert wrapped.param_groups is inner.param_groups
        assert wrapped.state is inner.state
        assert wrapped.defaults is inner.defaults

    check()
    wrapped.load_state_dict(wrapped.state_dict())
    check()
    wrapped.param_groups = [dict(group) for group in wrapped.param_groups]
    wrapped.state = dict(wrapped.state)
    wrapped.defaults = dict(wrapped.defaults)
    check()


def test_nothing_is_forwarded_that_is_not_the_wrappers_own() -> None:
    _, inner, wrapped = make()
    inner.some_attribute = 1  # type: ignore[attr-defined]
    assert not hasattr(wrapped, "some_attribute")
    assert not hasattr(wrapped, "_step_supports_amp_scaling")
    assert "__getattr__" not in dir(ProjectedOptimizer)


@contextmanager
def _global_hooks(count: Counter[str]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, register in (("pre", register_optimizer_step_pre_hook), ("post", register_optimizer_step_post_hook)):
            handle = register(lambda *_, name=name: count.update([f"global step {name}"]))
            stack.callback(handle.remove)
        yield


HOOKS = [f"{what}_{when}_hook" for what in ("step", "state_dict", "load_state_dict") for when in ("pre", "post")]


def test_each_hook_fires_once() -> None:
    model, inner, wrapped = make()
    count: Counter[str] = Counter()

    def counted(name: str) -> Any:
        return lambda *_: count.update([name])

    for optimizer, owner in ((wrapped, "wrapper"), (inner, "inner")):
        for kind in HOOKS:
            getattr(optimizer, f"register_{kind}")(counted(f"{owner} {kind}"))
    with _global_hooks(count):
        train(model, wrapped, range(1))
        wrapped.load_state_dict(wrapped.state_dict())
    assert set(count) == {f"{o} {k}" for o in ("wrapper", "inner") for k in HOOKS} | {
        "global step pre",
        "global step post",
    }
    assert set(count.values()) == {1}, count


def test_hooks_may_replace_what_they_are_shown() -> None:
    model, _, wrapped = make()
    seen: list[Any] = []

    def pre_hook(optimizer: Any, args: Any, kwargs: Any) -> Any:
        seen.append((optimizer, args))
        return (optimizer, lambda: backward(model, 0)), kwargs

    handle = wrapped.register_step_pre_hook(pre_hook)
    assert wrapped.step() is not None
    assert seen == [(wrapped, (wrapped,))]
    handle.remove()
    wrapped.register_state_dict_post_hook(lambda _, state: {**state, "extra": 1})
    wrapped.register_load_state_dict_pre_hook(lambda _, state: {k: v for k, v in state.items() if k != "extra"})
    state = wrapped.state_dict()
    assert state["extra"] == 1
    wrapped.load_state_dict(state)


@pytest.mark.parametrize("how", ["none", "positional", "keyword"])
def test_step_hooks_see_what_torchs_own_show(how: str) -> None:
    seen = []
    for wrap in (False, True):
        model, inner, wrapped = make()
        optimizer = wrapped if wrap else inner

        def closure(model: Weights = model) -> torch.Tensor:
            return backward(model, 0)

        given: tuple[tuple[Any, ...], dict[str, Any]] = {
            "none": ((), {}),
            "positional": ((closure,), {}),
            "keyword": ((), {"closure": closure}),
        }[how]
        for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook):
            register(lambda o, args, kwargs: seen.append((len(args), args[0] is o, args[1:], kwargs)))
        backward(model, 0)
        optimizer.step(*given[0], **given[1])
        assert seen[-1] == seen[-2] == (1 + len(given[0]), True, *given)
    assert len(seen) == 4
    assert inspect.signature(ProjectedOptimizer.step).parameters.keys() == {"self", "closure"}


def _pickled(pair: Any) -> Any:
    return pickle.loads(pickle.dumps(pair))


COPIES = pytest.mark.parametrize("copied", [copy.deepcopy, _pickled], ids=["deepcopy", "pickle"])


@COPIES
@pytest.mark.parametrize("write_back", ["auto", "exact"])
def test_copies_take_masters_and_rounding_noise_along(copied: Callable[[Any], Any], write_back: str) -> None:
    """The conformance suite says it of every torch optimizer in float32, which has neither."""
    model = Weights(dtype=torch.bfloat16)
    inner = torch.optim.AdamW(model.parameters(), lr=0.01)
    wrapped = ProjectedOptimizer(inner, direction_for(model), model, write_back=write_back)
    train(model, wrapped, range(3))
    twin, other = copied((model, wrapped))
    train(model, wrapped, range(3, 5))
    train(twin, other, range(3, 5))
    assert_same_training((model, wrapped), (twin, other))


@COPIES
def test_copies_leave_hooks_and_a_schedulers_step_behind(copied: Callable[[Any], Any]) -> None:
    """As copies of torch's optimizers do: the `step` that a scheduler puts on an instance steps that instance."""
    model, _, wrapped = make()
    torch.optim.lr_scheduler.ConstantLR(wrapped)
    for kind in HOOKS:
        getattr(wrapped, f"register_{kind}")(lambda *_: pytest.fail("a hook of the original ran"))
    twin, other = copied((model, wrapped))
    fired: list[str] = []
    other.register_step_post_hook(lambda *_: fired.append("step"))
    before = copies(model)
    train(twin, other, range(1))
    other.load_state_dict(other.state_dict())
    assert fired == ["step"]
    assert_same(before, copies(model))
    assert_update_guarantee(twin, before, wrapped.direction, "one_sided")


def test_added_groups_are_covered() -> None:
    model = Weights()
    inner = torch.optim.SGD([model.first], lr=0.1)
    direction = direction_for(model)
    with pytest.warns(UserWarning, match=r"trains 1 of the 4 parameters .*not in its groups: second, lying, bias"):
        wrapped = ProjectedOptimizer(inner, direction, model)
    train(model, wrapped, range(1))
    assert wrapped.metrics()["svdproj/projected"] == 1
    assert wrapped.coverage().matched == ("first",)
    assert wrapped.coverage().left_out == ("second", "lying", "bias")
    wrapped.add_param_group({"params": [model.second, model.lying, model.bias], "lr": 0.2, "maximize": True})
    assert len(inner.param_groups) == 2
    before = copies(model)
    train(model, wrapped, range(1, 2))
    assert wrapped.metrics()["svdproj/projected"] == 4
    assert wrapped.coverage() == direction.coverage(model)
    assert_update_guarantee(model, before, direction, "one_sided")


def test_zero_grad_and_repr_delegate() -> None:
    model, inner, wrapped = make()
    backward(model, 0)
    wrapped.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    wrapped.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    assert "ProjectedOptimizer(space='update', gate='one_sided', mode='erase', parameters=4)" in repr(wrapped)
    assert repr(inner) in repr(wrapped)
    wrapped.train()  # AdamW has neither mode
    wrapped.eval()


def test_named_groups_keep_their_names() -> None:
    model = Weights()
    wrapped = ProjectedOptimizer(torch.optim.AdamW(model.named_parameters()), direction_for(model), model)
    train(model, wrapped, range(1))
    assert wrapped.state_dict()["param_groups"][0]["param_names"] == ["first", "second", "lying", "bias"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "weights"}, "unknown space 'weights'; choose one of 'gradient', 'update'"),
        ({"gate": "none"}, "unknown gate"),
        ({"mode": "delete"}, "unknown mode"),
        ({"write_back": "naive"}, "unknown write_back"),
        ({"overshoot": 0.0}, "overshoot must be positive"),
        ({"quarantine": {}}, "mode='route'"),
    ],
)
def test_unknown_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    model = Weights()
    with pytest.raises(ValueError, match=message):
        ProjectedOptimizer(torch.optim.SGD(model.parameters()), HackDirection.empty(), model, **options)


def test_arguments_of_the_wrong_kind_say_what_to_pass() -> None:
    model, inner, _ = make()
    with pytest.raises(TypeError, match=r"pass the model, or model.named_parameters\(\)"):
        ProjectedOptimizer(inner, direction_for(model), (p for p in [("a", 1, 2)]))  # type: ignore[arg-type]


def test_a_direction_for_another_model_is_refused() -> None:
    model, inner, _ = make()
    other = torch.nn.Linear(3, 3, bias=False)
    with pytest.raises(ValueError, match="matches none of the 4 parameters"):
        ProjectedOptimizer(inner, direction_for(other), model)
    other.first = torch.nn.Parameter(torch.randn(3, 3))
    with pytest.raises(ValueError, match="first has shape"):
        ProjectedOptimizer(inner, direction_for(other), model)


def test_a_direction_that_covers_a_part_warns_and_says_what_is_missing() -> None:
    model, _, _ = make()
    small = torch.nn.Module()
    small.first = model.first
    with pytest.warns(UserWarning, match=r"covers 1 of its 4 parameters here; not in the model: second, lying, bias"):
        wrapped = ProjectedOptimizer(torch.optim.SGD(small.parameters()), direction_for(model), small)
    assert wrapped.coverage().matched == ("first",)
