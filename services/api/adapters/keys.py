"""Who may ask: bearer keys, held as hashes and compared in constant time."""

import hashlib
import hmac
from collections.abc import Mapping


class Keys:
    """The keys that open this api, each with the name of the actor it stands for."""

    def __init__(self, actors_by_key: Mapping[str, str]) -> None:
        self._actors = {_digest(key): actor for key, actor in actors_by_key.items()}

    def actor(self, key: str) -> str | None:
        """The actor whose key this is, None for a key that opens nothing."""
        asked = _digest(key)
        found = None
        for known, actor in self._actors.items():  # all of them: the time tells nothing
            if hmac.compare_digest(known, asked):
                found = actor
        return found

    def seal(self, text: str) -> str:
        """A signature over ``text`` that only this api can make, for cookies."""
        secret = hashlib.sha256(b"cookie" + b"".join(sorted(self._actors))).digest()
        return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()

    def sealed(self, text: str, seal: str) -> bool:
        """Whether ``seal`` is ours over ``text``."""
        return hmac.compare_digest(self.seal(text).encode(), seal.encode())


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
