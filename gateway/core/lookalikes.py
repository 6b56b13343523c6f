"""What a credential that is wrong looks like: a person who pasted another one reads which it was.

Nothing is told of a text but its kind, and nothing of whether part of it would have been right: with
blanks or quotes around it a right token is as wrong as any other, and only told to have them.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.core.setupcode import looks_like_setup_code

_JWT: Final = re.compile(r"eyJ[\w-]*\.[\w-]+\.[\w-]*")
_API_KEY: Final = re.compile(
    r"(?:sk-|sk_|pk_|rk_|xai-|gsk_|ghp_|gho_|github_pat_|hf_|AIza|xox[abp]-|AKIA)\S{8,}"
)
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_DEVICE_TOKEN: Final = re.compile(r"[\w-]{43}")
_DEVICE_ID: Final = re.compile(r"[0-9a-f]{64}")
_VARIABLE: Final = re.compile(r"\$\{?\w+\}?|\{\{.*\}\}|<[^>]*>|%\w+%")
_QUOTES: Final = "\"'`“”‘’"


def looks_like(text: str, *, password: bool = False) -> str | None:
    """Return of which kind a wrong credential seems to be and what to do, or None for no idea.

    ``password`` says that a password was expected, which a device's token is not.
    """
    bare = text.strip()
    if not bare:
        return "it is blank: enter the credential"
    if bare != text:
        return "it has blanks or a line break around it: remove them"
    if bare[0] in _QUOTES or bare[-1] in _QUOTES:
        return "it has quotes around it: remove them"
    if bare.lower().startswith(("bearer ", "basic ", "token ")):
        return "it is a whole header: leave out the word before the token"
    if _URL.match(bare):
        return "it is an address: enter the token alone"
    if _JWT.fullmatch(bare):
        return "it is a JWT of some other service"
    if _API_KEY.fullmatch(bare):
        return "it is an API key of some other service; keys of models belong to agents.ID.api_key"
    if _VARIABLE.fullmatch(bare):
        return "it is the name of a variable, not what is in it"
    if bare.startswith("$argon2"):
        return "it is the hash of a password: enter the password itself"
    if looks_like_setup_code(bare):
        return "it is a setup code: enter it where the app asks for one, not as token or password"
    if _DEVICE_ID.fullmatch(bare):
        return "it is the id of a device"
    if password and _DEVICE_TOKEN.fullmatch(bare):
        return "it is a token, of a device or of another gateway: a password is asked for"
    return None
