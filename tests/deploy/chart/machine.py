"""Rendered containers as processes of this machine: command, arguments, variables and files as the chart has them.

Owns what a kubelet would do: files where mounts are, a root that cannot be written. Changes nothing but places, ports
and host names. Refuses to own how a command is waited for and ended (tests/e2e/servers.py).
"""

import contextlib
import functools
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from loadtest.launch import free_port
from service.runtime.cache import cache_dir
from tests.deploy.chart.pods import Pod, arguments, config_map, environment
from tests.deploy.chart.render import Objects
from tests.e2e.servers import Server


class Container(NamedTuple):
    """One that can be started here."""

    command: list[str]
    env: dict[str, str]
    folder: Path
    port: int

    def run(self) -> subprocess.CompletedProcess[str]:
        """To its end, as an init container or a test."""
        return subprocess.run(self.command, env=self.env, cwd=self.folder, capture_output=True, text=True, check=False)

    @contextlib.contextmanager
    def serving(self, path: str) -> Iterator[Server]:
        """Ready at this path; ended with the block, at once: a second signal says so."""
        with tempfile.NamedTemporaryFile(prefix="aerie-", suffix=".log") as log:
            process = subprocess.Popen(self.command, env=self.env, cwd=self.folder, stdout=log, stderr=log)
            server = Server(process, self.port, self.port, Path(log.name))
            try:
                server.wait(f"{server.url}{path}")
                yield server
            finally:
                server.client.close()
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)  # or the two signals would be one
                process.terminate()
                process.wait(60)


def place(found: Objects, pod: Pod, container: dict[str, Any], folder: Path, hosts: dict[str, str]) -> Container:
    """Lay a container's files out in a folder, and say how it is started there.

    Args:
        found: the release.
        pod: whose container it is.
        container: the one.
        folder: an empty one, which stands for the container's writable and mounted places.
        hosts: addresses of the cluster -> those of this machine.
    """
    port = free_port()
    ports = {str(one["containerPort"]): str(port) for one in container.get("ports", [])}
    mounts = {mount["mountPath"]: f"{folder}{mount['mountPath']}" for mount in container["volumeMounts"]}
    (folder / "tmp").mkdir()
    swaps = {**hosts, "0.0.0.0": "127.0.0.1", **_port_words(ports), **mounts}
    for mount in container["volumeMounts"]:
        target = Path(mounts[mount["mountPath"]])
        target.mkdir(parents=True, exist_ok=True)
        for key, text in _files(found, pod, mount["name"]).items():
            (target / key).write_text(_swapped(text, swaps))
    env = {name: _swapped(value, swaps) for name, value in environment(container).items()}
    command = [_swapped(word, swaps) for word in arguments(container)]
    return Container([*read_only_root(folder), *command], {**_of_image(folder), **env}, folder / "tmp", port)


def _of_image(folder: Path) -> dict[str, str]:
    """Variables that the image has: there too the cache holds model and kernels, and cannot be written."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {"PATH": path, "AERIE_CACHE_DIR": str(cache_dir().resolve()), "TMPDIR": f"{folder}/tmp"}


def _port_words(ports: dict[str, str]) -> dict[str, str]:
    """As command lines and profiles name them."""
    return {f"{word}{before}": f"{word}{after}" for before, after in ports.items() for word in ("port=", "port: ")}


def _files(found: Objects, pod: Pod, volume: str) -> dict[str, str]:
    """Of a volume that is a ConfigMap."""
    source = next(one for one in pod.spec["volumes"] if one["name"] == volume)
    files: dict[str, str] = config_map(found, source["configMap"]["name"])["data"] if "configMap" in source else {}
    return files


def _swapped(text: str, swaps: dict[str, str]) -> str:
    """All at once, so that nothing is swapped twice; the longest first, so that none hides another."""
    words = sorted(swaps, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, words)), lambda found: swaps[found[0]], text)


def read_only_root(folder: Path) -> list[str]:
    """What a command is begun with, so that it can write nothing but this folder, shared memory and devices."""
    if not can_unshare():
        return []
    script = 'mount --make-rprivate / && mount --bind "$0" "$0" && mount -o remount,ro,bind / && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(folder)]


@functools.cache
def can_unshare() -> bool:
    """Whether this machine lets us make a root read-only: root in a container often may not."""
    script = "mount --make-rprivate / && mount -o remount,ro,bind /"
    with contextlib.suppress(OSError):
        return (
            subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, check=False).returncode == 0
        )
    return False
