import pathlib

import pytest

from dpdm_jax.errors import InputError
from dpdm_jax.user_paths import user_path


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("~/runs/a", "/home/me/runs/a"),
        ("~", "/home/me"),
        ("runs/~/a", "runs/~/a"),
        ("/data/a:b", "/data/a:b"),
        ("a:b/c", "a:b/c"),
        (pathlib.Path("~/a"), "/home/me/a"),
        ("", "."),
    ],
)
def test_the_home_folder_is_expanded_at_the_beginning(monkeypatch, given, found):
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("it", given) == pathlib.Path(found)


@pytest.mark.parametrize(
    "url",
    [
        *("gs://bucket/run", "s3://b", "file:///tmp/run", "https://host/x.pt"),
        # As pathlib writes the first one.
        *("gs:/bucket/run", pathlib.Path("gs://bucket/run")),
    ],
)
def test_a_url_is_refused(url):
    with pytest.raises(InputError, match=r"--workdir is '.*', a URL; allowed: a path"):
        user_path("--workdir", url)
