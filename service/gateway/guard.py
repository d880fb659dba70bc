"""Who may ask, and how much: the newest valid key file, and what each of its keys has used.

Owns putting keys and limits together. Refuses to own the rules of either (keys.py, limits.py) and watching files
(reload.py).
"""

import asyncio
from pathlib import Path

from service.gateway import keyfile
from service.gateway.keys import ANONYMOUS, Key, KeyRing
from service.gateway.limits import Limiter
from service.gateway.metrics import Metrics
from service.gateway.reload import Reloading, of_one


class Guard:
    """Without a key file everyone may ask, without limits."""

    def __init__(self, path: Path | None, metrics: Metrics) -> None:
        """Read the file.

        Raises:
            InvalidFiles: it cannot be used.
        """
        self._file = None if path is None else Reloading([path], of_one(keyfile.parse), on_change=self._adopt)
        self.limiter = Limiter([ANONYMOUS] if self._file is None else self._file.value.keys)
        metrics.keys_generation.set_function(lambda: self._file.status.generation if self._file else 0)
        metrics.keys_loaded.set_function(lambda: self._file.status.last_ok_s if self._file else 0)
        metrics.keys_stale.set_function(lambda: self._file is not None and self._file.status.last_error is not None)

    def authenticate(self, authorization: str | None) -> Key:
        """Whose key the header holds.

        Raises:
            Unauthorized: nobody's that is known and valid.
        """
        return ANONYMOUS if self._file is None else self._file.value.authenticate(authorization)

    def reload(self) -> None:
        """Read the file now, if there is one."""
        if self._file is not None:
            self._file.reload()

    async def watch(self) -> None:
        """Read the file whenever it changes, for ever."""
        await (asyncio.Event().wait() if self._file is None else self._file.watch())

    def _adopt(self, ring: KeyRing) -> None:
        self.limiter.adopt(ring.keys)
