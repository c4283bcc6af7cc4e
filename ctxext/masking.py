"""Mask secrets in text that is written down or shown."""

import re

# The Hub's tokens, who logs in within a URL, and secrets among a URL's parameters.
_SECRET = re.compile(
    r"(?<![A-Za-z0-9])hf_(?!(?:evaluate|hub|xet|transfer)(?![A-Za-z0-9]))[\w.-]+"  # libraries
    r"|(?<=://)[^/\s]+@"
    r"|(?<=[?&])((?i:[\w.-]*(?:token|secret|password|signature|credential)|api_?key|key|sig)=)"
    r"[^&#\s]+"
)


def masked(text: str) -> str:
    """Return the text with tokens and passwords as `***`."""
    return _SECRET.sub(lambda match: (match[1] or "") + "***", text)
