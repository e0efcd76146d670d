"""TRL's trainers with a `ProjectedOptimizer`."""

from __future__ import annotations

try:
    from trl import GRPOTrainer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"svdproj.integrations.trl needs {error.name}; run: pip install 'svdproj[trl]'", name=error.name
    ) from None

from svdproj.integrations.transformers import ProjectionMixin

__all__ = ["ProjectedGRPOTrainer", "ProjectionMixin"]


class ProjectedGRPOTrainer(ProjectionMixin, GRPOTrainer):
    """TRL's `GRPOTrainer` whose optimizer stays out of a direction.

    Args:
        *args: `GRPOTrainer`'s own.
        direction: the direction to stay out of.
        projection: options of `ProjectedOptimizer`; `{"mode": "measure"}` trains as usual and reports.
        **kwargs: `GRPOTrainer`'s own.

    The logs of each step hold `ProjectedOptimizer.metrics()` beside TRL's own. For other trainers of TRL write
    `class ProjectedRLOOTrainer(ProjectionMixin, RLOOTrainer)`.

    Example:
        >>> trainer = ProjectedGRPOTrainer(  # doctest: +SKIP
        ...     model, reward_funcs=reward, args=args, train_dataset=data, direction=direction
        ... )
        >>> trainer.train()  # doctest: +SKIP
    """
