"""griffe extension: a docstring's `Example:` becomes a section of code, as `Examples:` is by itself.

griffe reads the singular as an admonition, whose `>>>` Markdown would turn into nested quotations.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class SingularExample(griffe.Extension):
    """Renames the heading before the docstring is parsed."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
