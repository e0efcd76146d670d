"""Tests of the adapters neither read nor fill the user's cache of singular vectors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVDPROJ_CACHE", str(tmp_path_factory.mktemp("svd-cache")))
        yield
