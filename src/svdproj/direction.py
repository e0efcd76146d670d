"""A direction: one subspace of gradient space for each parameter, with its provenance."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from svdproj.coverage import Coverage, check_fit, coverage_of
from svdproj.fit import FitOptions, fit_gradients, fit_model
from svdproj.fitting import drop_noise
from svdproj.hub import fetch, push
from svdproj.metadata import DirectionMetadata, prompt_hash, tensors_hash
from svdproj.nulls import generator_for
from svdproj.pairs import ContrastivePair, Prompt
from svdproj.provenance import differing_weights
from svdproj.scoring import Scores, score_completions
from svdproj.serialization import read_direction, write_direction
from svdproj.subspace import Subspace
from svdproj.summary import summarize
from svdproj.threads import few_threads
from svdproj.validation import Validation, validate_subspaces

_DRAWERS = 8  # threads that draw random rows


@dataclass(frozen=True, eq=False)
class HackDirection:
    """What training should not move the weights into: one `Subspace` for each parameter name, and where it comes from.

    Args:
        subspaces: canonical parameter name to subspace.
        metadata: provenance.

    Example:
        >>> gradients = {"layer.weight": torch.randn(8, 16, 4)}
        >>> direction = HackDirection.from_gradients(gradients, chart="dense", k=2, noise_floor=0.0)
        >>> direction.subspaces["layer.weight"].rows.shape
        torch.Size([2, 64])
    """

    subspaces: Mapping[str, Subspace]
    metadata: DirectionMetadata = field(default_factory=DirectionMetadata)

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        tokenizer: Any,
        pairs: Sequence[ContrastivePair],
        *,
        targets: str | Sequence[str] = "all-linear",
        chart: str = "bilinear",
        basis: str = "gradient",
        chart_rank: int = 64,
        k: int = 24,
        noise_floor: float = 0.25,
        loss: str = "mean",
        holdout: float = 0.2,
        batch_size: int = 8,
        seed: int = 0,
        progress: bool = True,
    ) -> HackDirection:
        """Extract a direction from a model's gradients on contrastive pairs.

        For pair `i` and weight `W` the difference is `Dᵢ = ∇NLL(hackᵢ) - ∇NLL(cleanᵢ)`; the rows are the top right
        singular vectors of the differences in the chart, oriented hack-ward. Bases and rows come from the fitting share
        alone; what they catch of the held-out pairs is in the metadata.

        Args:
            model: a causal language model; left exactly as it was.
            tokenizer: its tokenizer; needs a chat template for chat prompts.
            pairs: a few dozen pairs; at least two.
            targets: `"all-linear"` for every linear weight but the output head (on a PEFT model: the trainable
                parameters), `"trainable"`, a shell pattern for names, such as `"*.mlp.*.weight"`, or several of these.
            chart: `"bilinear"`, `"diagonal"` or `"dense"`; vectors, and matrices smaller than their chart, are dense
                anyway.
            basis: bases of bilinear charts: `"gradient"`, from the pairs' second moments, or `"weight"`, singular
                vectors.
            chart_rank: columns of each basis, at most.
            k: rows for each parameter, at most; never more than there are fitting pairs.
            noise_floor: share, by count, of the lowest singular values of all parameters that is dropped.
            loss: `"mean"` over a completion's tokens, as in GRPO (arXiv:2402.03300), or their `"sum"`, as in Dr. GRPO
                (arXiv:2503.20783).
            holdout: share of the prompts held out.
            batch_size: pairs to a batch.
            seed: of the split and the sketches; global random state is not touched.
            progress: show a progress bar where `tqdm` is installed.

        Raises:
            ValueError: unknown options, fewer than two pairs, targets of which one selects nothing, chat prompts without a
                chat template, a token that the model has no row for, or a pair longer than the model's context.
            NotImplementedError: sharded parameters (`fully_shard`, tensor parallelism), or a mixture of experts.

        Example:
            >>> direction = HackDirection.fit(model, tokenizer, pairs, k=4, progress=False)
            >>> len(direction.held_out(pairs)) / len(pairs)
            0.2
        """
        options = FitOptions(chart, basis, chart_rank, k, noise_floor, loss, holdout, seed)
        subspaces, metadata = fit_model(model, tokenizer, pairs, targets, options, batch_size, progress)
        return cls(subspaces, metadata)

    @classmethod
    def from_gradients(
        cls,
        gradients: Mapping[str, Float[Tensor, "n_pairs *shape"]],
        *,
        chart: str = "bilinear",
        chart_rank: int = 64,
        k: int = 24,
        noise_floor: float = 0.25,
        seed: int = 0,
    ) -> HackDirection:
        """A direction from gradient differences that you computed yourself.

        Args:
            gradients: parameter name to the differences `Dᵢ`, hack minus clean, one for each pair.
            chart: `"bilinear"` (bases from the differences' second moments) or `"dense"`.
            chart_rank: columns of each basis, at most.
            k: rows for each parameter, at most.
            noise_floor: share of the lowest singular values that is dropped.
            seed: of the sketches.

        Raises:
            ValueError: unknown options, differences that are not finite, or no pairs.

        Example:
            >>> differences = torch.randn(8, 16, 4)  # of eight pairs, for a weight of shape 16 x 4
            >>> direction = HackDirection.from_gradients(
            ...     {"layer.weight": differences}, chart_rank=3, k=2, noise_floor=0.0
            ... )
            >>> direction.subspaces["layer.weight"].chart.size, direction.subspaces["layer.weight"].k
            (9, 2)
        """
        options = FitOptions(chart, "gradient", chart_rank, k, noise_floor, "", 0.0, seed)
        subspaces, metadata = fit_gradients(gradients, options)
        return cls(subspaces, metadata)

    @classmethod
    def empty(cls) -> HackDirection:
        """The direction without subspaces: wrapping an optimizer with it changes nothing.

        Example:
            >>> len(HackDirection.empty())
            0
        """
        return cls({})

    def __len__(self) -> int:
        """Number of parameters with a subspace."""
        return len(self.subspaces)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file at exactly this path; it appears whole or not at all.

        Example:
            >>> direction.save("direction.safetensors")
            >>> HackDirection.load("direction.safetensors").fingerprint == direction.fingerprint
            True
        """
        write_direction(Path(path), self.subspaces, self.metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module | None = None) -> HackDirection:
        """Read a saved direction.

        Args:
            path: the file.
            model: what it will be used on, to be warned here if the direction does not belong to these weights; see
                `check_weights`. Wrapping an optimizer asks only for names and shapes, since weights differ in every run
                that is resumed.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: no direction, a damaged one, a newer format, rows that are not orthonormal or not finite; a model
                whose parameters have other names or shapes.

        Warns:
            UserWarning: the model's weights are others than those that the direction was fitted on.

        Example:
            >>> direction.save("direction.safetensors")
            >>> HackDirection.load("direction.safetensors", model).metadata == direction.metadata
            True
        """
        direction = cls(*read_direction(Path(path)))
        if model is not None:
            direction.check_weights(model)
        return direction

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        commit_message: str = "Upload direction",
        token: str | bool | None = None,
    ) -> str:
        """Upload the direction with a model card to the Hugging Face hub.

        Args:
            repo_id: `user/name`; made if it does not exist.
            private: whether a new repository is private; None leaves it to the account's setting.
            commit_message: of the one commit.
            token: access token; None takes the one of `hf auth login`.

        Returns:
            The repository's address.

        Raises:
            ModuleNotFoundError: `huggingface_hub` is not installed.
            ConnectionError: the hub cannot be reached.
            PermissionError: the token does not suffice.

        Example:
            >>> direction.push_to_hub("me/model-hacks")  # doctest: +SKIP
        """
        return push(self, repo_id, private, commit_message, token)

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        model: nn.Module | None = None,
    ) -> HackDirection:
        """Read a direction from the Hugging Face hub, or from a local folder with a `direction.safetensors` in it.

        Args:
            repo_id: `user/name`, or a folder.
            revision: branch, tag or commit.
            token: access token; None takes the one of `hf auth login`.
            model: as in `load`.

        Raises:
            ModuleNotFoundError: `huggingface_hub` is not installed.
            ConnectionError: the hub cannot be reached, and the file is not in its cache.
            FileNotFoundError: there is no such repository, revision, or direction in it.
            ValueError: as from `load`.

        Example:
            >>> import os
            >>> os.makedirs("folder", exist_ok=True)
            >>> direction.save("folder/direction.safetensors")
            >>> len(HackDirection.from_pretrained("folder")) == len(direction)
            True
        """
        return cls.load(fetch(repo_id, revision, token), model)

    def check_weights(self, model: nn.Module) -> tuple[str, ...]:
        """Which covered weights have other values than those that the direction was fitted on.

        Before training there should be none. After it, and in another precision, they differ as they should.

        Args:
            model: the model, not yet sharded.

        Returns:
            Canonical names; none for a direction that was not fitted on a model.

        Raises:
            ValueError: the model's parameters have other names or shapes, or are sharded.

        Warns:
            UserWarning: weights differ; the warning says how many, which, and whence the direction comes.

        Example:
            >>> direction.check_weights(model)
            ()
        """
        check_fit(self, model.named_parameters(remove_duplicate=False))
        return differing_weights(self.subspaces, self.metadata, model)

    def held_out(self, pairs: Sequence[ContrastivePair]) -> list[ContrastivePair]:
        """Those of the pairs whose prompts the direction was not fitted on: what `validate` should be given.

        Raises:
            ValueError: the direction does not know its prompts, as one that `from_gradients` made.

        Example:
            >>> new = ContrastivePair(
            ...     "Write last(xs).", hack="def run_tests(): pass", clean="def last(xs): return xs[-1]"
            ... )
            >>> direction.held_out([new]) == [new]
            True
        """
        fitted = set(self.metadata.fitted_prompts)
        if not fitted:
            raise ValueError(
                "the direction does not know which prompts it was fitted on (one from gradients does not): hold pairs out "
                "yourself, and give those to validate"
            )
        return [pair for pair in pairs if prompt_hash(pair.prompt) not in fitted]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of names and tensors, the same on every device."""
        return tensors_hash(
            (f"{name}::{part}", tensor)
            for name, subspace in sorted(self.subspaces.items())
            for part, tensor in {"rows": subspace.rows, **subspace.chart.tensors}.items()
        )

    def truncate(self, k: int | None = None, noise_floor: float | None = None) -> HackDirection:
        """The same direction with fewer rows; figures that were measured on the old rows are dropped.

        Args:
            k: keep at most so many rows of each parameter.
            noise_floor: drop this share, by count, of the lowest singular values among the rows kept so far.

        Raises:
            ValueError: `k` is below 1, or `noise_floor` is not in [0, 1).

        Example:
            >>> max(subspace.k for subspace in direction.truncate(k=2).subspaces.values())
            2
        """
        if k is not None and k < 1:
            raise ValueError(f"k must be at least 1, got {k}; use HackDirection.empty() for no rows at all")
        subspaces = {name: s if k is None else s.truncate(k) for name, s in self.subspaces.items()}
        if noise_floor is not None:
            subspaces = drop_noise(subspaces, noise_floor)
        metadata = self.metadata.without_figures(
            same_charts=subspaces,
            k=self.metadata.k if k is None else min(k, self.metadata.k or k),
            noise_floor=self.metadata.noise_floor if noise_floor is None else noise_floor,
        )
        return HackDirection(subspaces, metadata)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> HackDirection:
        """The direction on another device or in another floating-point type.

        Example:
            >>> half = direction.to(dtype=torch.bfloat16)
            >>> {subspace.rows.dtype for subspace in half.subspaces.values()}
            {torch.bfloat16}
        """
        return HackDirection({name: s.to(device, dtype) for name, s in self.subspaces.items()}, self.metadata)

    def random_like(self, seed: int) -> HackDirection:
        """Random rows in the same charts, as many: the control for "any subspace of this size would do".

        `svdproj.controls` has more of them.

        Example:
            >>> random = direction.random_like(seed=0)
            >>> random.metadata.control
            'random rows in the charts'
            >>> all(share < 0.9 for share in direction.overlap(random).values())
            True
        """
        # Each parameter has a generator of its own, so threads change nothing; for large frames the drawing takes longest.
        names = list(self.subspaces)

        def draw(name: str) -> Subspace:
            return self.subspaces[name].random_like(generator_for(seed, name))

        # The first one alone: at its first use torch sets up its linear algebra on a GPU, which two threads must not do at once.
        with few_threads():
            drawn = [draw(name) for name in names[:1]]
        with few_threads(1), ThreadPoolExecutor(min(len(names), _DRAWERS) or 1) as drawers:  # theirs are threads enough
            drawn += drawers.map(draw, names[1:])
        return HackDirection(
            dict(zip(names, drawn, strict=True)),
            self.metadata.without_figures(
                self.subspaces, seed=seed, control=self.metadata.control or "random rows in the charts"
            ),
        )

    def overlap(self, other: HackDirection) -> dict[str, float]:
        """Overlap of the subspaces for each parameter that both directions cover; 1 is the same span, 0 orthogonal.

        `‖A Bᵀ‖_F² / min(k_a, k_b)`, the mean squared cosine of the principal angles (Björck and Golub, 1973,
        doi:10.2307/2005662).

        Raises:
            ValueError: a parameter has different shapes in the two.

        Warns:
            UserWarning: the two share no parameter.

        Example:
            >>> all(abs(share - 1) < 1e-3 for share in direction.overlap(direction).values())
            True
        """
        shared = [name for name in self.subspaces if name in other.subspaces]
        if not shared and len(self) and len(other):
            warnings.warn("the two directions share no parameter name", stacklevel=2)
        for name in shared:
            shapes = self.subspaces[name].chart.shape, other.subspaces[name].chart.shape
            if shapes[0] != shapes[1]:
                raise ValueError(
                    f"{name} has the shapes {shapes[0]} and {shapes[1]}: the directions are for different models"
                )
        return {name: self.subspaces[name].overlap(other.subspaces[name]) for name in shared}

    def coverage(self, model: nn.Module | Iterable[tuple[str, Tensor]]) -> Coverage:
        """Which parameters of a model the direction covers, and what it costs.

        Args:
            model: a module or `(name, parameter)` pairs.

        Example:
            >>> coverage = direction.coverage(model)
            >>> len(coverage.matched) == len(direction)
            True
        """
        named = model.named_parameters(remove_duplicate=False) if isinstance(model, nn.Module) else model
        return coverage_of(self, named)

    def validate(
        self,
        model: nn.Module,
        tokenizer: Any,
        pairs: Sequence[ContrastivePair],
        *,
        batch_size: int = 8,
        seed: int = 0,
        progress: bool = True,
    ) -> Validation:
        """Does the direction tell hack from clean on these pairs, and is it better than a random one?

        Args:
            model: the model; left exactly as it was.
            tokenizer: its tokenizer.
            pairs: pairs that the direction was not fitted on (see `held_out`), of five prompts at least. A direction that
                does not know its prompts takes any, and says in `n_fitted` that it does not know.
            batch_size: pairs to a batch.
            seed: of the random directions and sign patterns.
            progress: show a progress bar where `tqdm` is installed.

        Raises:
            ValueError: no pairs, an empty direction, or one that does not fit the model.

        Example:
            >>> validation = direction.validate(model, tokenizer, direction.held_out(pairs), progress=False)
            >>> 0 <= validation.sign_accuracy <= 1 and 0 < validation.random_p_value <= 1
            True
        """
        check_fit(self, model.named_parameters())
        return validate_subspaces(self.subspaces, self.metadata, model, tokenizer, pairs, batch_size, seed, progress)

    def score(
        self,
        model: nn.Module,
        tokenizer: Any,
        completions: Sequence[tuple[Prompt, str]],
        *,
        batch_size: int = 16,
        progress: bool = False,
    ) -> Scores:
        """How hack-ward single completions are, by the gradients of their mean negative log likelihood.

        It asks for no reward, so it exists where all rewards of a group are equal and the policy gradient vanishes.

        Args:
            model: the model; left exactly as it was.
            tokenizer: its tokenizer.
            completions: prompt (text or chat messages) and completion.
            batch_size: completions to a batch.
            progress: show a progress bar where `tqdm` is installed.

        Raises:
            ValueError: no completions, an empty direction, one that does not fit the model, or a completion without
                tokens or longer than the model's context.

        Example:
            >>> scores = direction.score(model, tokenizer, [(pair.prompt, pair.hack) for pair in pairs])
            >>> len(scores) == len(pairs)
            True
        """
        check_fit(self, model.named_parameters())
        return score_completions(self.subspaces, model, tokenizer, completions, batch_size, progress)

    def summary(self) -> str:
        """Spectrum, energy caught and what random rows would catch, held-out accuracy and provenance, as text.

        Example:
            >>> print(direction.summary())
            HackDirection: 12 parameters, 42 rows, ...
        """
        return summarize(self)

    def __repr__(self) -> str:
        rows = sum(subspace.k for subspace in self.subspaces.values())
        return f"HackDirection({len(self)} parameters, {rows} rows, model {self.metadata.model_id!r})"
