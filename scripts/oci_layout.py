"""Wrap the tar file of a root file system as an OCI image layout of one layer.

    python scripts/oci_layout.py ROOT.tar FOLDER TAG

See the OCI image specification: ``index.json`` names a manifest by its digest, the manifest names
a configuration and the layer, and each is a file in ``blobs/sha256`` that is called by its digest.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
TYPE = "application/vnd.oci.image"
SEARCH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_layout(root: Path, folder: Path, tag: str) -> None:
    """Write the layout of the file system in the tar file ``root`` into a new ``folder``."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    inside, layer = write_layer(root, blobs)
    machine = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
    }
    configuration = {
        **machine,
        "config": {"Env": [SEARCH]},
        "rootfs": {"type": "layers", "diff_ids": [inside]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{TYPE}.manifest.v1+json",
        "config": write_json(configuration, blobs, f"{TYPE}.config.v1+json"),
        "layers": [layer],
    }
    described = write_json(manifest, blobs, f"{TYPE}.manifest.v1+json")
    described |= {
        "platform": machine,
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    index = {"schemaVersion": 2, "manifests": [described]}
    (folder / "index.json").write_text(json.dumps(index))


def write_layer(root: Path, blobs: Path) -> tuple[str, dict[str, Any]]:
    """Compress the tar file into a blob; returns its own digest, and the blob's description."""
    inside, aside = hashlib.sha256(), blobs / "layer"
    with (
        root.open("rb") as source,
        aside.open("wb") as out,
        # neither name nor time: the same tar file gives the same blob
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=out, mtime=0) as packed,
    ):
        while chunk := source.read(CHUNK):
            inside.update(chunk)
            packed.write(chunk)
    with aside.open("rb") as written:
        digest = hashlib.file_digest(written, "sha256").hexdigest()
    aside.rename(blobs / digest)
    size = (blobs / digest).stat().st_size
    described = {"mediaType": f"{TYPE}.layer.v1.tar+gzip", "digest": f"sha256:{digest}"}
    return f"sha256:{inside.hexdigest()}", described | {"size": size}


def write_json(value: Any, blobs: Path, kind: str) -> dict[str, Any]:
    """Write a JSON blob; returns its description."""
    data = json.dumps(value).encode()
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    write_layout(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
