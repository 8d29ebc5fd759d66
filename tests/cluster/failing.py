"""A process of its own that fails on a cluster in every way, and prints all that the cluster keeps and shows about it."""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster

import pfreg
from pfreg import distribution
from tests.cluster import mortal
from tests.cluster.counting import Counting

QUICK = {"distributed.scheduler.allowed-failures": 0, "distributed.admin.log-length": None}


def attempt(name: str, call: Callable[[], Any]) -> None:
    """Print what comes of a call."""
    try:
        print(name, "ends well:", call())
    except pfreg.PfregError as e:
        print(name, "fails:", repr(e), str(e), repr(vars(e)), repr(e.__cause__))


def known_to(dask_scheduler: Any) -> list[Any]:
    """Return what the scheduler knows about tasks; the dashboard shows parts of it."""
    return [
        (task.key, task.prefix.name, task.group_key, str(task.run_spec), task.exception_text, task.traceback_text)
        for task in dask_scheduler.tasks.values()
    ]


def show(client: Client, folder: Path) -> None:
    """Print logs, tasks, events, pages, and a dump of the whole state."""
    tasks = client.run_on_scheduler(known_to)
    print("tasks", tasks)
    print("logs", client.get_scheduler_logs(), client.get_worker_logs())
    print("events", client.get_events())
    port = client.scheduler_info()["services"]["dashboard"]
    pages = ["info/main/workers.html", "metrics", *(f"info/task/{key}.html" for key, *_ in tasks)]
    for page in pages:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=30) as answer:
            print(page, answer.read().decode())
    client.dump_cluster_state(str(folder / "dump"), format="yaml")
    print((folder / "dump.yaml").read_text())


def main(folder: Path, leaf: str, secret: str) -> None:
    """Copy and verify, well and badly, with a secret in the options."""
    distribution._BATCH_BLOBS = 4
    mortal.register()
    (folder / "deaths").mkdir()
    options = {"token": secret}
    failing, dying = {"at": leaf, "fails": True}, {"at": leaf, "deaths": str(folder / "deaths"), "lives": 1}
    url, to = f"mortal://{folder}/root", f"mortal://{folder}/target"
    with (
        dask.config.set(QUICK),
        LocalCluster(n_workers=1, threads_per_worker=2, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(mortal.Registering())
        executor = Counting(client.get_executor())

        def copy(**more: Any) -> Any:
            return pfreg.copy(url, to, storage_options=options | more, target_options=options, executor=executor)

        attempt("a failing copy", lambda: copy(**failing))
        attempt("a dying copy", lambda: copy(**dying))
        attempt("a verify", lambda: pfreg.verify(to, storage_options=options | failing, executor=executor))
        show(client, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
