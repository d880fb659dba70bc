"""Who may ask, and how much: the newest valid key file, and what each of its keys has used.

Owns putting keys and limits together. Refuses to own the rules of either (keys.py, limits.py) and watching files
(reload.py).
"""

from pathlib import Path

from service.gateway import keyfile
from service.gateway.keys import ANONYMOUS, Key, KeyRing
from service.gateway.limits import Limiter
from service.gateway.metrics import Metrics
from service.gateway.reload import OptionalFile


class Guard:
    """Without a key file everyone may ask, without limits."""

    def __init__(self, path: Path | None, metrics: Metrics) -> None:
        """Read the file.

        Raises:
            InvalidFiles: it cannot be used.
        """
        self._file = OptionalFile(path, keyfile.parse, metrics.keys_file, on_change=self._adopt)
        self.reload, self.watch = self._file.reload, self._file.watch
        ring = self._file.value
        self.limiter = Limiter([ANONYMOUS] if ring is None else ring.keys)

    def authenticate(self, authorization: str | None) -> Key:
        """Whose key the header holds.

        Raises:
            Unauthorized: nobody's that is known and valid.
        """
        ring = self._file.value
        return ANONYMOUS if ring is None else ring.authenticate(authorization)

    def _adopt(self, ring: KeyRing) -> None:
        self.limiter.adopt(ring.keys)
