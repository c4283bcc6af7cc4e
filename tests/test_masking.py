"""Tokens and passwords in text that is kept or shown."""

import json

import pytest

from ctxext.checkpoints.provenance import command_line
from ctxext.masking import masked
from support.command import run_ctxext

SECRET = "s3cr3t" + "x" * 20


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hf_" + SECRET, "***"),
        ("hf_oauth_eyJh.eyJz-_x.sig", "***"),
        (f"https://user:{SECRET}@host/m", "https://***host/m"),
        (f"https://{SECRET}@host/m", "https://***host/m"),
        (f"https://us@er:{SECRET}@host/m", "https://***host/m"),
        (f"https://host/m?token={SECRET}&x=1", "https://host/m?token=***&x=1"),
        (f"https://host/m?x=1&X-Amz-Signature={SECRET}", "https://host/m?x=1&X-Amz-Signature=***"),
        (f"https://host/m?access_token={SECRET}#top", "https://host/m?access_token=***#top"),
        ("https://host/a@b", "https://host/a@b"),
        ("runs/qwen-32k --tokens 4k", "runs/qwen-32k --tokens 4k"),
    ],
)
def test_secrets_are_masked_and_the_rest_is_left(text, shown):
    assert masked(text) == shown


def test_a_command_keeps_no_secret():
    url = f"https://me:{SECRET}@host/m?token={SECRET}"
    line = command_line(["ctxext", "eval-ppl", url, f"--data={url}", "--token", SECRET])
    assert SECRET not in line
    assert "host" in line


def test_an_error_shows_no_secret(tmp_path):
    url = f"https://me:hf_{SECRET}@host/m"
    done = run_ctxext("extend", url, "--target", "4k", "-o", tmp_path / "out", "--json")
    assert done.returncode == 2
    assert SECRET not in done.stdout + done.stderr
    assert "host/m" in json.loads(done.stdout)["error"]
