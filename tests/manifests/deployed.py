"""The processes of an overlay on this machine, each with exactly what its Deployment gives it.

What is given to a process is read from the built manifests, never from here. Only addresses and places change: a value
that is, as a whole, an address of a Service or of the pod itself, or a path of a mounted Secret, gives way to the local
one. Anything else goes to the process as it stands; so an address that no Service has leads nowhere.
"""

import compileall
import functools
import shutil
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import urlsplit

from scripts.processes import LocalProcess, free_port
from scripts.servers.base import PROBE_S
from scripts.stack.service import SERVICE_START_S, is_ready
from tests.manifests.image import stages
from tests.manifests.kustomize import REPOSITORY, Manifest, of_kind
from tests.manifests.workloads import PROCESSES, Workload, environment, find_secret, secret_mounts, workload


@dataclass(frozen=True, slots=True)
class Backends:
    """URLs of real servers."""

    mongodb: str
    redis: str
    rabbitmq: str

    def local(self, value: str) -> str:
        """The same kind of backend here; the value itself where it is no URL of one."""
        urls = {
            "mongodb": self.mongodb,
            "redis": self.redis,
            "rediss": self.redis,
            "amqp": self.rabbitmq,
            "amqps": self.rabbitmq,
        }
        return urls.get(urlsplit(value).scheme if "://" in value else "", value)


class Deployed:
    """A context manager: inside it, all four are ready. Leaving it ends each as Kubernetes would, and insists that it
    goes within its grace by itself."""

    def __init__(
        self,
        directory: Path,
        manifests: Sequence[Manifest],
        secrets: Mapping[str, Mapping[str, str]],
        backends: Backends,
    ) -> None:
        """`secrets` are those that the manifests do not bring: name → key → text."""
        self.manifests = manifests
        self.workloads = {name: workload(manifests, name) for name in PROCESSES}
        self._directory = directory
        self._secrets = secrets
        self._backends = backends
        # Process → port in the pod → port here.
        self._ports = {
            name: {port: free_port() for port in each.ports.values()} for name, each in self.workloads.items()
        }
        self._processes: dict[str, LocalProcess] = {}

    def port(self, process: str, pod_port: int) -> int:
        return self._ports[process][pod_port]

    def metrics(self, process: str) -> str:
        """What Prometheus would get from its admin port."""
        port = self.port(process, self.workloads[process].ports["admin"])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PROBE_S) as answer:
            return str(answer.read().decode())

    def pid(self, process: str) -> int:
        return self._processes[process].pid

    def __enter__(self) -> Self:
        root = self._make_image_root()
        try:
            for name in PROCESSES:
                self._processes[name] = self._start(self.workloads[name], root)
            for name, process in self._processes.items():
                admin_port = self.port(name, self.workloads[name].ports["admin"])
                process.wait_ready(functools.partial(is_ready, admin_port), timeout_s=SERVICE_START_S)
        except BaseException:
            for process in self._processes.values():
                process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            if process.identity is not None:
                process.identity.ask_to_end()
        late = [
            name
            for name, process in self._processes.items()
            if not process.stop(grace_s=self.workloads[name].grace_s - self.workloads[name].pre_stop_s)
        ]
        assert not late, f"not gone within their grace: {', '.join(late)}"

    def _start(self, each: Workload, root: Path) -> LocalProcess:
        directory = self._directory / each.name
        directory.mkdir(parents=True)
        here = self._local_values(each)
        secrets = self._mount(each, directory)
        variables = {
            name: self._translated(value, here, secrets) for name, value in environment(self.manifests, each).items()
        }
        process = LocalProcess(
            each.name,
            [sys.executable, "-m", *each.container["args"]],
            directory=directory,
            env={**_image_variables(), **variables},
            cwd=root,
        )
        process.spawn()
        return process

    def _local_values(self, each: Workload) -> Mapping[str, str]:
        """Whole values that mean this pod, or a Service, and what they are here."""
        own = self._ports[each.name]
        values = {"0.0.0.0": "127.0.0.1", str(each.ports["admin"]): str(own[each.ports["admin"]])}
        values |= {f"0.0.0.0:{port}": f"127.0.0.1:{here}" for port, here in own.items()}
        for service in of_kind(self.manifests, "Service"):
            spec, name = service["spec"], service["metadata"]["name"]
            for process, pods in self.workloads.items():
                if spec["selector"].items() <= pods.labels.items():
                    for port in spec["ports"]:
                        local = self._ports[process][pods.ports[port["targetPort"]]]
                        values[f"{name}:{port['port']}"] = f"127.0.0.1:{local}"
        return values

    def _translated(self, value: str, here: Mapping[str, str], secrets: Mapping[PurePosixPath, Path]) -> str:
        path = PurePosixPath(value)
        if path.parent in secrets:
            return str(secrets[path.parent] / path.name)
        return ",".join(here.get(part, part) for part in value.split(","))

    def _mount(self, each: Workload, directory: Path) -> Mapping[PurePosixPath, Path]:
        """The Secrets of the pod as files; by the directory that they have there."""
        mounted = {}
        for mount in secret_mounts(each):
            data = find_secret(self.manifests, mount.secret) or self._secrets[mount.secret]
            files = directory / "secrets" / mount.secret
            files.mkdir(parents=True)
            for key, text in data.items():
                (files / key).write_text(self._backends.local(text))
            mounted[mount.directory] = files
        return mounted

    def _make_image_root(self) -> Path:
        """What the image holds of the checkout, and nothing else of it; compiled, as there."""
        root = self._directory / "root"
        for copy in stages()[-1].copies:
            if copy.stage is None:
                for source in copy.sources:
                    shutil.copytree(
                        REPOSITORY / source, root / copy.target, ignore=shutil.ignore_patterns("__pycache__")
                    )
        page = root / "web" / "dist"  # in the image it is built; here any page will do
        page.mkdir(parents=True)
        (page / "index.html").write_text("<!doctype html><title>Parley</title>")
        compileall.compile_dir(root, quiet=1)
        return root


def _image_variables() -> Mapping[str, str]:
    """Those of the image, but for the paths that lie elsewhere here."""
    return {name: value for name, value in stages()[-1].variables.items() if name != "PATH"}
