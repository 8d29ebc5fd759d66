"""Digests have one spelling."""

from __future__ import annotations

import hashlib
import io
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfreg.digest import CHUNK, Digest, hash_stream
from pfreg.errors import IntegrityError
from tests.formats.images import says_one_line
from tests.formats.test_manifest import WRONG_DIGESTS


@given(st.binary(max_size=100))
def test_a_digest_is_the_sha256_and_its_text_comes_back(data: bytes) -> None:
    digest = Digest.of(data)
    assert str(digest) == "sha256:" + hashlib.sha256(data).hexdigest()
    assert Digest.parse(str(digest)) == digest == Digest.parse(digest) == pickle.loads(pickle.dumps(digest))
    assert digest.short == digest.hex[:12]


@pytest.mark.parametrize("name", WRONG_DIGESTS)
def test_every_other_spelling_is_refused(name: str) -> None:
    wrong: Any = WRONG_DIGESTS[name]
    with pytest.raises(IntegrityError) as caught:
        Digest.parse(wrong)
    assert says_one_line(caught.value)
    if wrong != WRONG_DIGESTS["no prefix"]:
        with pytest.raises(IntegrityError):
            Digest(wrong)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_a_stream_is_hashed_from_where_it_is_to_its_end(size: int) -> None:
    stream = io.BytesIO(b"skipped" + b"x" * size)
    stream.seek(7)
    assert hash_stream(stream) == (Digest.of(b"x" * size), size)
