"""Asks a server (`zoe serve`, docs/serve.md) for videos: pure Python, needs neither the engine nor another package.

    from zoetrope.client import Client

    client = Client("http://127.0.0.1:8080")
    client.generate("a fox in the snow", "fox.mp4", num_frames=33, on_progress=lambda event: print(event["progress"]))

``AsyncClient`` has the same methods for asyncio. Fields of a request are those of docs/requests.md. Pictures and videos are sent:
paths, bytes, open files and PIL images, as ``image=pathlib.Path("cat.png")``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import http.client
import io
import json
import os
import pathlib
import shutil
import tempfile
import threading
import time
import urllib.parse
import uuid
from typing import IO, Any, AsyncIterator, Callable, Iterator, Mapping, TypeVar

from . import errors
from .request_types import FILE_FIELDS

__all__ = ["AsyncClient", "Client", "Event", "ServerFailure", "Video"]

T = TypeVar("T")
_RETRIED = (429, 503)
_MOST_WAIT_S = 60.0


class ServerFailure(errors.ZoetropeError):
    """An answer that is about the server, not the request: no such job, an unknown key, a full queue, one that is not ready.

    Attributes:
        status: of HTTP; 0 where there was no answer.
        code: the server's word for it ("not_found", "queue_full", "unreachable", ...).
        param: the field, or None.
    """

    kind = "server"

    def __init__(self, text: str, status: int = 0, code: str = "unreachable", param: str | None = None) -> None:
        super().__init__(text)
        self.status, self.code, self.param = status, code, param


class Video:
    """A job as the server describes it: the fields of docs/serve.md's video object are its attributes, and ``data`` is all of it."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def is_done(self) -> bool:
        """Completed or failed."""
        return self.data.get("status") in ("completed", "failed")

    def __repr__(self) -> str:
        return f"Video({self.data.get('id')}: {self.data.get('status')}, {self.data.get('progress')}%)"


class Event:
    """One of a job's events: ``name`` is "video", "queue", "progress", "preview", "deleted" or "stopping"."""

    def __init__(self, name: str, data: Mapping[str, Any]) -> None:
        self.name, self.data = name, dict(data)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __repr__(self) -> str:
        return f"Event({self.name}, {self.data})"


def _failure(status: int, body: bytes) -> errors.ZoetropeError:
    try:
        error = json.loads(body)["error"]
        text, code, param = str(error["message"]), str(error["code"]), error.get("param")
    except (ValueError, KeyError, TypeError):
        return ServerFailure(f"[server] status {status}: {body[:200].decode('utf-8', 'replace')}", status, "unknown")
    return _of_code(text, code, status, param)


def _of_code(text: str, code: str, status: int = 0, param: str | None = None) -> errors.ZoetropeError:
    known = errors.of_kind(code, text)
    return known if known.kind == code else ServerFailure(text, status, code, param)


def _upload(value: Any) -> tuple[str, bytes] | None:
    """A name and bytes of what is sent as a file; None of what is not."""
    if isinstance(value, (bytes, bytearray)):
        return "upload", bytes(value)
    if isinstance(value, os.PathLike):
        path = pathlib.Path(value)
        try:
            return path.name, path.read_bytes()
        except OSError as error:
            raise errors.FileFailure(f"[upload] cannot read {path}: {error.strerror}.") from error
    if hasattr(value, "convert") and hasattr(value, "save"):  # PIL
        memory = io.BytesIO()
        value.save(memory, "PNG")
        return "picture.png", memory.getvalue()
    if hasattr(value, "read"):
        return os.path.basename(str(getattr(value, "name", "upload"))), value.read()
    return None


def _body(fields: Mapping[str, Any]) -> tuple[bytes, str]:
    """The body and its type: JSON, or a form where files are sent."""
    plain: dict[str, Any] = {}
    files: list[tuple[str, str, bytes]] = []
    for name, value in fields.items():
        if value is None:
            continue
        for each in value if isinstance(value, (list, tuple)) and name in FILE_FIELDS else [value]:
            if name in FILE_FIELDS and isinstance(each, str) and not each.startswith("data:"):
                each = pathlib.Path(each)
            upload = _upload(each)
            if upload is None:
                plain[name] = value
            else:
                files.append((name, *upload))
    if not files:
        return json.dumps(plain).encode(), "application/json"
    boundary = uuid.uuid4().hex
    parts = []
    if plain:  # as one part, so that lists and objects are what they are
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="extra_body"\r\n\r\n'.encode() + json.dumps(plain).encode())
    for name, filename, data in files:
        filename = filename.replace('"', "_").replace("\r", "_").replace("\n", "_")
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
                     "Content-Type: application/octet-stream\r\n\r\n".encode() + data)
    return b"\r\n".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


class Client:
    """One server. A connection is made for each call; a client may be used from several threads.

    Args:
        url: "http://127.0.0.1:8080"; https works, too.
        api_key: where the server wants one.
        timeout: seconds without a byte until a call fails.
        retries: how often a call is tried again when the server is busy or cannot be reached. A job is made once however often.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", *, api_key: str | None = None, timeout: float = 60, retries: int = 3) -> None:
        parts = urllib.parse.urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise errors.InvalidArgument(f'[url] got "{url}", expected http://HOST:PORT.')
        self._connection: type[http.client.HTTPConnection] = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection)
        self._host, self._port, self._base = parts.hostname, parts.port, parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout, self._retries = timeout, retries

    # --- Jobs

    def create(self, prompt: str, **fields: Any) -> Video:
        """A new job; the server has it on disk when this returns."""
        return Video(self._make("/v1/videos", {"prompt": prompt, **fields}))

    def plan(self, prompt: str = "a prompt of a few words", **fields: Any) -> dict[str, Any]:
        """What a request would take: sizes, memory, seconds."""
        return self._make("/v1/videos/plan", {"prompt": prompt, **fields})

    def retrieve(self, video: str | Video) -> Video:
        return Video(self._json("GET", f"/v1/videos/{_id(video)}"))

    def list(self, *, limit: int = 20, after: str | None = None, order: str = "desc", status: str | None = None) -> Iterator[Video]:
        """All jobs, `limit` of them at a time."""
        while True:
            query = {"limit": str(limit), "order": order, **({"after": after} if after else {}), **({"status": status} if status else {})}
            page = self._json("GET", "/v1/videos?" + urllib.parse.urlencode(query))
            yield from map(Video, page["data"])
            if not page["has_more"]:
                return
            after = page["last_id"]

    def cancel(self, video: str | Video) -> Video:
        """Stops it; it stays, as failed and cancelled."""
        return Video(self._json("POST", f"/v1/videos/{_id(video)}/cancel"))

    def delete(self, video: str | Video) -> None:
        """Stops it and removes it with its files."""
        self._json("DELETE", f"/v1/videos/{_id(video)}")

    def remix(self, video: str | Video, prompt: str, **fields: Any) -> Video:
        """The same request with another prompt, and whatever else shall differ."""
        return Video(self._make(f"/v1/videos/{_id(video)}/remix", {"prompt": prompt, **fields}))

    def content(self, video: str | Video, variant: str = "video") -> bytes:
        """The file; or its "thumbnail", "spritesheet" (PNG) or, of one that runs, "preview" (GIF)."""
        with self._ask("GET", f"/v1/videos/{_id(video)}/content?variant={urllib.parse.quote(variant)}") as answer:
            return self._read(answer)

    def download(self, video: str | Video, path: str | os.PathLike[str], variant: str = "video") -> str:
        """The same, to a file that appears complete or not at all."""
        target = pathlib.Path(path)
        with self._ask("GET", f"/v1/videos/{_id(video)}/content?variant={urllib.parse.quote(variant)}") as answer:
            try:
                with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
                    try:
                        shutil.copyfileobj(answer, file)
                        if answer.length:  # of what was promised
                            raise ServerFailure("[server] the connection ended within the file.")
                        file.flush()
                        os.chmod(file.name, 0o644)
                        os.replace(file.name, target)
                    except BaseException:
                        os.unlink(file.name)
                        raise
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, errors.ZoetropeError):
                    raise
                raise errors.FileFailure(f"[download] cannot write {target}: {error}.") from error
        return str(target)

    def events(self, video: str | Video) -> Iterator[Event]:
        """What happens to a job, as it happens, until it is done. Ends early where the server stops or the connection does."""
        with self._ask("GET", f"/v1/videos/{_id(video)}/events") as answer:
            yield from _read_events(answer)

    def wait(self, video: str | Video, *, on_progress: Callable[[Event], object] | None = None) -> Video:
        """Until a job is done: follows its events, and connects again where the server was started anew.

        Raises:
            What the job failed by, by its kind; Cancelled where someone stopped it.
        """
        tries = 0
        while True:
            try:
                for event in self.events(video):
                    tries = 0
                    if event.name == "progress" and on_progress:
                        on_progress(event)
                    if event.name == "deleted":
                        raise ServerFailure(f"[{_id(video)}] was removed.", 404, "not_found")
                    if event.name == "video" and Video(event.data).is_done:
                        return _done(Video(event.data))
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, errors.ZoetropeError):
                    raise
            except ServerFailure as failure:
                if failure.code != "unreachable":
                    raise
            tries += 1
            if tries > 10 * max(self._retries, 1):
                raise ServerFailure(f"[{_id(video)}] the server at {self._host} is gone.")
            time.sleep(min(0.2 * tries, 2.0))

    def generate(self, prompt: str, output: str | os.PathLike[str], *, on_progress: Callable[[Event], object] | None = None,
                 **fields: Any) -> Video:
        """Makes a video and fetches it. Where this is interrupted, so is the job."""
        video = self.create(prompt, **fields)
        try:
            video = self.wait(video, on_progress=on_progress)
        except KeyboardInterrupt:
            self.cancel(video)
            raise
        self.download(video, output)
        return video

    # --- The server

    def models(self) -> dict[str, Any]:
        """Models and what each takes; the table of fields; limits."""
        return self._json("GET", "/v1/models")

    def loras(self) -> list_[str]:
        """Names that `lora` takes."""
        return [each["id"] for each in self._json("GET", "/v1/loras")["data"]]

    def health(self) -> dict[str, Any]:
        return self._json("GET", "/health")

    # --- Inside

    def _make(self, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        body, media_type = _body(fields)
        # The key makes trying again safe: the server answers with the job that it has.
        return self._json("POST", path, body, {"Content-Type": media_type, "Idempotency-Key": uuid.uuid4().hex})

    def _json(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> dict[str, Any]:
        with self._ask(method, path, body, headers) as answer:
            result: dict[str, Any] = json.loads(self._read(answer))
            return result

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerFailure(f"[server] the connection to {self._host} ended within an answer: {error}.") from error

    def _ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> http.client.HTTPResponse:
        for tries_left in range(self._retries, -1, -1):
            wait_s = 0.5 * 2 ** (self._retries - tries_left)
            connection = self._connection(self._host, self._port, timeout=self._timeout)
            try:
                connection.request(method, self._base + path, body, {**self._headers, **headers, "Connection": "close"})
                answer = connection.getresponse()
                if answer.status < 400:
                    if connection.sock:
                        connection.sock.close()  # for the answer, which has it open, to close last
                    return answer
                failure = _failure(answer.status, answer.read())
                connection.close()
                if answer.status not in _RETRIED or not tries_left:
                    raise failure
                wait_s = min(float(answer.getheader("Retry-After") or wait_s), _MOST_WAIT_S)
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if isinstance(error, errors.ZoetropeError):
                    raise
                if not tries_left:
                    raise ServerFailure(f"[server] cannot reach {self._host}:{self._port or ''}: {error}.") from error
            time.sleep(wait_s)
        raise AssertionError("unreachable")


list_ = list  # Client.list hides the name inside the class


def _id(video: str | Video) -> str:
    return urllib.parse.quote(str(video.id if isinstance(video, Video) else video), safe="")


def _done(video: Video) -> Video:
    if video.status == "completed":
        return video
    error = video.error or {"message": "failed", "code": "internal"}
    raise _of_code(str(error["message"]), str(error["code"]))


def _read_events(stream: IO[bytes]) -> Iterator[Event]:
    """Server-sent events up to [DONE] or the stream's end."""
    name, data = "message", ""
    for raw in stream:
        line = raw.decode("utf-8", "replace").rstrip("\r\n")
        if not line:
            if data == "[DONE]":
                return
            if data:
                yield Event(name, json.loads(data))
            name, data = "message", ""
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data += ("\n" if data else "") + line[5:].lstrip(" ")


class AsyncClient:
    """The methods of ``Client`` for asyncio, each call in a thread of a pool of its own.

    Args:
        at_once: how many calls run at a time; a stream of events is one as long as it lasts.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", *, api_key: str | None = None, timeout: float = 60, retries: int = 3,
                 at_once: int = 64) -> None:
        self._client = Client(url, api_key=api_key, timeout=timeout, retries=retries)
        self._threads = concurrent.futures.ThreadPoolExecutor(at_once, "zoetrope-client")

    async def _call(self, function: Callable[..., T], *arguments: Any, **named: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(function, *arguments, **named))

    async def create(self, prompt: str, **fields: Any) -> Video:
        return await self._call(self._client.create, prompt, **fields)

    async def plan(self, prompt: str = "a prompt of a few words", **fields: Any) -> dict[str, Any]:
        return await self._call(self._client.plan, prompt, **fields)

    async def retrieve(self, video: str | Video) -> Video:
        return await self._call(self._client.retrieve, video)

    async def list(self, **query: Any) -> list_[Video]:
        return await self._call(lambda: [*self._client.list(**query)])

    async def cancel(self, video: str | Video) -> Video:
        return await self._call(self._client.cancel, video)

    async def delete(self, video: str | Video) -> None:
        await self._call(self._client.delete, video)

    async def remix(self, video: str | Video, prompt: str, **fields: Any) -> Video:
        return await self._call(self._client.remix, video, prompt, **fields)

    async def content(self, video: str | Video, variant: str = "video") -> bytes:
        return await self._call(self._client.content, video, variant)

    async def download(self, video: str | Video, path: str | os.PathLike[str], variant: str = "video") -> str:
        return await self._call(self._client.download, video, path, variant)

    async def events(self, video: str | Video) -> AsyncIterator[Event]:
        """As Client.events. Leaving the loop early closes the connection at the next event."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
        left = threading.Event()

        def follow() -> None:
            last: BaseException | None = None
            try:
                for event in self._client.events(video):
                    if left.is_set():
                        return
                    loop.call_soon_threadsafe(arrived.put_nowait, event)
            except BaseException as error:
                last = error
            if not left.is_set():
                loop.call_soon_threadsafe(arrived.put_nowait, last)

        self._threads.submit(follow)
        try:
            while (event := await arrived.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            left.set()

    async def wait(self, video: str | Video, *, on_progress: Callable[[Event], object] | None = None) -> Video:
        """As Client.wait; `on_progress` is called in the loop's thread."""
        loop = asyncio.get_running_loop()
        report = (lambda event: loop.call_soon_threadsafe(on_progress, event)) if on_progress else None
        return await self._call(self._client.wait, video, on_progress=report)

    async def generate(self, prompt: str, output: str | os.PathLike[str], *, on_progress: Callable[[Event], object] | None = None,
                       **fields: Any) -> Video:
        """As Client.generate; a task that is cancelled cancels the job."""
        video = await self.create(prompt, **fields)
        try:
            video = await self.wait(video, on_progress=on_progress)
        except asyncio.CancelledError:
            await asyncio.shield(self.cancel(video))
            raise
        await self.download(video, output)
        return video

    async def models(self) -> dict[str, Any]:
        return await self._call(self._client.models)

    async def loras(self) -> list_[str]:
        return await self._call(self._client.loras)

    async def health(self) -> dict[str, Any]:
        return await self._call(self._client.health)
