"""A publication through the eyes of TUF's reference client (python-tuf), over HTTP on the loopback.

tuf_client.py PUBLICATION STATE [TARGET...]

STATE holds what the client remembers between calls; its first root is taken from the publication where it is empty.
Prints one JSON object: {"versions": {...}, "targets": {name: sha256}}, or {"refused": exception, "why": text}.
"""

import functools
import hashlib
import http.server
import json
import pathlib
import sys
import threading

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient import Updater


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def serve(folder):
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_address[1]}"


def look(publication, state, wanted):
    metadata, targets = state / "metadata", state / "targets"
    for folder in (metadata, targets):
        folder.mkdir(parents=True, exist_ok=True)
    base = serve(publication)
    first = (publication / "metadata" / "1.root.json").read_bytes()
    updater = Updater(
        metadata_dir=str(metadata),
        metadata_base_url=f"{base}/metadata/",
        target_dir=str(targets),
        target_base_url=f"{base}/targets/",
        bootstrap=first,
    )
    updater.refresh()
    found = {}
    for name in wanted:
        info = updater.get_targetinfo(name)
        if info is None:
            raise RepositoryError(f"{name} is not a target")
        path = pathlib.Path(updater.download_target(info))
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        path.unlink()
    read = lambda role: json.loads((metadata / f"{role}.json").read_text())["signed"]["version"]
    return {"versions": {role: read(role) for role in ("root", "timestamp", "snapshot", "targets")}, "targets": found}


def main():
    publication, state, *wanted = sys.argv[1:]
    try:
        said = look(pathlib.Path(publication), pathlib.Path(state), wanted)
    except (RepositoryError, DownloadError, ValueError) as refusal:
        said = {"refused": type(refusal).__name__, "why": str(refusal)}
    print(json.dumps(said))


main()
