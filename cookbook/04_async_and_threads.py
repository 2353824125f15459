"""Tasks, threads and executors: every call belongs to the session that it was started in.

You get one session id on calls from anyio (or asyncio) tasks, from `anyio.to_thread`, and from a thread pool through
`carry`. A pool without `carry` starts from nothing: its calls are governed all the same, in the process's implicit
session.
"""

from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.to_thread

from tappass import carry, tappass_session, tappass_session_async, tool
from tappass.testing import memory_plane


@tool
async def fetch(page: int) -> str:
    """Fetch a page."""
    await anyio.sleep(0.001)
    return f"page {page}"


@tool
def parse(page: str) -> int:
    """Parse a page."""
    return len(page)


async def crawl() -> str:
    async with tappass_session_async(name="crawl") as session:
        async with anyio.create_task_group() as tasks:
            for page in range(3):
                tasks.start_soon(fetch, page)
        await anyio.to_thread.run_sync(parse, "page 7")
        return session.session_id


def pooled() -> str:
    with tappass_session(name="pooled") as session, ThreadPoolExecutor() as pool:
        assert list(pool.map(carry(parse), ["one", "three"])) == [3, 5]
        assert pool.submit(parse, "without carry").result() == 13
        return session.session_id


def main() -> None:
    with memory_plane() as plane:
        crawled, in_pool = anyio.run(crawl), pooled()
        for event in plane.events(type="call.decided"):
            where = {crawled: "crawl", in_pool: "pooled"}.get(event.session_id, "implicit")
            print(f"{event.name:6} {event.outcome} in {where}")
        assert len(plane.events(type="call.decided", session_id=crawled)) == 4
        assert len(plane.events(type="call.decided", session_id=in_pool)) == 2
        assert len(plane.events(type="call.ended")) == 7


if __name__ == "__main__":
    main()
