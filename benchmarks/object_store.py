"""The process of an S3 server: SeaweedFS, and the uploads to it.

A separate process, because a client's threads stay in the network namespace where they started.
"""

from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.worker import answer


class ObjectStore:
    """An S3 server, started by ``serve``; it ends with the process."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._server: Any = None

    def serve(self, folder: str, host: str) -> dict[str, Any]:
        """Start SeaweedFS with its data in a folder."""
        from tests.support.servers import seaweedfs

        Path(folder).mkdir()
        self._server = self._stack.enter_context(seaweedfs(Path(folder), host))
        return {"endpoint": self._server.endpoint}

    def put(self, folder: str, prefix: str, endpoint: str) -> dict[str, Any]:
        """Upload the files below a folder; return how to reach them through an endpoint."""
        import obstore

        from tests.support.servers import S3Server

        client = self._server.client()
        paths = []
        for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            paths.append(f"{prefix}/{path.relative_to(folder)}")
            obstore.put(client, paths[-1], path, use_multipart=False)
        behind = S3Server(endpoint, self._server.bucket)
        tars = [path for path in paths if path.endswith(".tar")]
        signed = obstore.sign(behind.client(), "GET", tars, expires_in=timedelta(hours=3))
        return {
            "url": f"s3://{behind.bucket}/{prefix}",
            "signed": list(signed),
            "environment": behind.environment | {"S3_ENDPOINT_URL": endpoint},
        }


if __name__ == "__main__":
    answer(ObjectStore())
