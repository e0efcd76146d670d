"""Makes `SVDScaleConfig` known to PEFT.

PEFT keeps its methods in tables (`register_peft_method` fills them) whose keys are members of the enumeration `PeftType`,
and it takes no name that the enumeration lacks. An enumeration has no public way to grow, so `_add_member` does by hand
what its metaclass does for the members that are written down: this is the one place where the library reaches into
another's internals, and a test holds it to what PEFT needs (lookup by value, iteration, identity after pickling).
"""

from __future__ import annotations

import enum
from typing import Any

from peft.utils.peft_types import PeftType, register_peft_method

from svdproj.adapters.config import METHOD, SVDScaleConfig
from svdproj.adapters.tuner import SVDScaleModel


def register() -> None:
    """Register the method with PEFT; a second call changes nothing."""
    if METHOD in PeftType._value2member_map_:
        return
    _add_member(PeftType, METHOD)
    register_peft_method(
        name=METHOD.lower(), config_cls=SVDScaleConfig, model_cls=SVDScaleModel, prefix=SVDScaleModel.prefix
    )


def _add_member(enumeration: type[enum.Enum], name: str) -> None:
    member: Any = str.__new__(enumeration, name)  # type: ignore[type-var]
    member._name_ = name
    member._value_ = name
    member.__objclass__ = enumeration
    member._sort_order_ = len(enumeration._member_names_)
    # Before the table: the metaclass forbids setting an attribute that the table names.
    type.__setattr__(enumeration, name, member)
    enumeration._member_names_.append(name)
    enumeration._member_map_[name] = member
    enumeration._value2member_map_[name] = member
