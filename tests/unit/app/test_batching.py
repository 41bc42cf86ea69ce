"""The micro-batcher of the reference application's ML service."""

import asyncio
import threading
import typing as t
from types import ModuleType

import pytest


class Model:
    """Encodes a text as its length, remembers the batches, and can be held up or fail."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()
        self.fails_on: str | None = None

    def __call__(self, texts: list[str]) -> list[list[int]]:
        self.batches.append(list(texts))
        self.threads.add(threading.get_ident())
        assert self.go.wait(5)
        if self.fails_on is not None and self.fails_on in texts:
            raise RuntimeError("bad text")
        return [[len(text)] for text in texts]


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def run(batching: ModuleType, model: Model) -> t.Callable[..., t.Any]:
    """Run a scenario with a started batcher, which is closed afterwards."""

    def runner(scenario: t.Callable[[t.Any], t.Awaitable[t.Any]], **options: t.Any) -> t.Any:
        async def main() -> t.Any:
            options.setdefault("window", 0.05)
            batcher = batching.MicroBatcher(model, **{"max_batch": 8, "max_pending": 16, "turn_seconds": 5, **options})
            batcher.start()
            try:
                async with asyncio.timeout(10):
                    return await scenario(batcher)
            finally:
                model.go.set()
                await batcher.close()

        return asyncio.run(main())

    return runner


async def until(condition: t.Callable[[], object]) -> None:
    """Wait for something that another task or thread brings about."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def hold(batcher: t.Any, model: Model) -> asyncio.Task[t.Any]:
    """Occupy the model, so that everything afterwards waits. Call model.go.set() to go on."""
    model.go.clear()
    task = asyncio.create_task(batcher.submit(["first"]))
    await until(lambda: model.batches == [["first"]])
    return task


def test_concurrent_requests_are_encoded_together(run: t.Callable[..., t.Any], model: Model) -> None:
    async def scenario(batcher: t.Any) -> t.Any:
        return await asyncio.gather(*(batcher.submit(["x" * n, "y" * (n + 1)]) for n in range(3)))

    assert run(scenario) == [[[0], [1]], [[1], [2]], [[2], [3]]]
    assert len(model.batches) == 1


def test_a_lone_request_waits_for_nobody(run: t.Callable[..., t.Any], model: Model) -> None:
    async def scenario(batcher: t.Any) -> None:
        await batcher.submit(["a"])
        await batcher.submit(["b"])

    # The scenario's limit is shorter than the window.
    run(scenario, window=60)
    assert model.batches == [["a"], ["b"]]


def test_after_a_shared_batch_a_request_waits_for_others_as_long_as_the_window(run: t.Callable[..., t.Any], model: Model) -> None:
    async def scenario(batcher: t.Any) -> None:
        await asyncio.gather(batcher.submit(["a"]), batcher.submit(["b"]))
        first = asyncio.create_task(batcher.submit(["c"]))
        await asyncio.sleep(0.02)
        await asyncio.gather(first, batcher.submit(["d"]))
        # Nobody else comes.
        await batcher.submit(["e"])

    run(scenario, window=0.2)
    assert model.batches == [["a", "b"], ["c", "d"], ["e"]]


def test_a_full_batch_does_not_wait_for_the_window(run: t.Callable[..., t.Any], model: Model) -> None:
    async def scenario(batcher: t.Any) -> None:
        await asyncio.gather(*(batcher.submit(["a"]) for _ in range(4)))

    # The scenario's limit is shorter than the window.
    run(scenario, window=60, max_batch=4)
    assert [len(batch) for batch in model.batches] == [4]


def test_batches_stay_within_their_size_and_keep_the_order(run: t.Callable[..., t.Any], model: Model) -> None:
    async def scenario(batcher: t.Any) -> None:
        first = await hold(batcher, model)
        others = [asyncio.create_task(batcher.submit([str(n)] * 3)) for n in range(4)]
        await until(lambda: batcher.waiting == 12)
        model.go.set()
        await asyncio.gather(first, *others)

    run(scenario, max_batch=8)
    assert model.batches[1:] == [["0"] * 3 + ["1"] * 3, ["2"] * 3 + ["3"] * 3]


def test_a_request_larger_than_a_batch_lets_others_in_between(run: t.Callable[..., t.Any], model: Model) -> None:
    async def scenario(batcher: t.Any) -> t.Any:
        first = await hold(batcher, model)
        large = asyncio.create_task(batcher.submit([f"large{n:02}" for n in range(10)]))
        await until(lambda: batcher.waiting == 4)
        small = asyncio.create_task(batcher.submit(["a"]))
        await until(lambda: batcher.waiting == 5)
        model.go.set()
        return await asyncio.gather(first, large, small)

    _, large, small = run(scenario, max_batch=4)
    assert (large, small) == ([[7]] * 10, [[1]])
    assert [batch[0] for batch in model.batches] == ["first", "large00", "a", "large04", "large08"]
    assert max(len(batch) for batch in model.batches) == 4


def test_a_request_that_gets_no_turn_is_given_up(run: t.Callable[..., t.Any], model: Model) -> None:
    async def scenario(batcher: t.Any) -> t.Any:
        first = await hold(batcher, model)
        second = asyncio.create_task(batcher.submit(["second"]))
        with pytest.raises(TimeoutError):
            await second
        assert not model.go.is_set()
        return await asyncio.gather(first, return_exceptions=True)

    assert isinstance(run(scenario, turn_seconds=0.1)[0], TimeoutError)


def test_all_batches_run_in_one_thread(run: t.Callable[..., t.Any], model: Model) -> None:
    async def scenario(batcher: t.Any) -> t.Any:
        for _ in range(3):
            await batcher.submit(["a"])
        return threading.get_ident()

    loop_thread = run(scenario, window=0)
    assert len(model.batches) == 3
    assert len(model.threads) == 1
    assert loop_thread not in model.threads


def test_a_full_queue_refuses_and_takes_again(run: t.Callable[..., t.Any], model: Model, batching: ModuleType) -> None:
    async def scenario(batcher: t.Any) -> t.Any:
        first = await hold(batcher, model)
        second = asyncio.create_task(batcher.submit(["a"] * 15))
        await until(lambda: batcher.waiting == 15)
        with pytest.raises(batching.QueueFull, match="16 texts"):
            await batcher.submit(["b"])
        model.go.set()
        await asyncio.gather(first, second)
        return await batcher.submit(["b"] * 16)

    assert run(scenario, max_batch=16) == [[1]] * 16


def test_only_the_culprit_of_a_failing_batch_fails(run: t.Callable[..., t.Any], model: Model, batching: ModuleType) -> None:
    model.fails_on = "poison"

    async def scenario(batcher: t.Any) -> t.Any:
        results = await asyncio.gather(
            batcher.submit(["a"]), batcher.submit(["poison"]), batcher.submit(["bb"]), return_exceptions=True
        )
        return results, await batcher.submit(["ccc"])

    (good, bad, other), later = run(scenario)
    assert (good, other, later) == ([[1]], [[2]], [[3]])
    assert isinstance(bad, batching.EncodingFailed)
    # What the model said may hold the text of a request.
    assert "RuntimeError" in str(bad) and "bad text" not in str(bad)


def test_a_wrong_number_of_vectors_is_a_failure(batching: ModuleType) -> None:
    async def main() -> t.Any:
        batcher = batching.MicroBatcher(lambda texts: [[0.0]], window=0, max_batch=8, max_pending=16, turn_seconds=5)
        batcher.start()
        try:
            with pytest.raises(batching.EncodingFailed):
                await batcher.submit(["a", "b"])
            return await batcher.submit(["a"])
        finally:
            await batcher.close()

    assert asyncio.run(main()) == [[0.0]]


def test_a_cancelled_request_is_not_encoded_and_frees_its_place(run: t.Callable[..., t.Any], model: Model) -> None:
    async def scenario(batcher: t.Any) -> t.Any:
        first = await hold(batcher, model)
        gone = asyncio.create_task(batcher.submit(["gone"] * 15))
        await until(lambda: batcher.waiting)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert gone.cancelled()
        stays = asyncio.create_task(batcher.submit(["stays"] * 15))
        await asyncio.sleep(0)
        model.go.set()
        return await first, await stays

    assert run(scenario, max_batch=16) == ([[5]], [[5]] * 15)
    assert model.batches == [["first"], ["stays"] * 15]


def test_a_request_cancelled_while_it_is_encoded_harms_no_other(run: t.Callable[..., t.Any], model: Model) -> None:
    async def scenario(batcher: t.Any) -> t.Any:
        model.go.clear()
        gone = asyncio.create_task(batcher.submit(["gone"]))
        stays = asyncio.create_task(batcher.submit(["stays!"]))
        await until(lambda: model.batches)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        model.go.set()
        return await stays, await batcher.submit(["a"])

    assert run(scenario) == ([[6]], [[1]])
    assert model.batches[0] == ["gone", "stays!"]


def test_the_worker_goes_on_if_all_waiting_requests_were_cancelled(run: t.Callable[..., t.Any], model: Model) -> None:
    async def scenario(batcher: t.Any) -> t.Any:
        gone = asyncio.create_task(batcher.submit(["gone"]))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0.1)
        return await batcher.submit(["a"])

    assert run(scenario) == [[1]]
    assert model.batches == [["a"]]


def test_closing_ends_the_running_batch_and_fails_the_rest(batching: ModuleType, model: Model) -> None:
    async def main() -> None:
        batcher = batching.MicroBatcher(model, window=0.01, max_batch=8, max_pending=16, turn_seconds=5)
        batcher.start()
        running = await hold(batcher, model)
        waiting = asyncio.create_task(batcher.submit(["later"]))
        await until(lambda: batcher.waiting == 1)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        model.go.set()
        await closing
        assert await running == [[5]]
        with pytest.raises(batching.Closed):
            await waiting
        with pytest.raises(batching.Closed):
            await batcher.submit(["too late"])

    asyncio.run(main())
    assert model.batches == [["first"]]


def test_closing_an_idle_batcher_returns(batching: ModuleType, model: Model) -> None:
    async def main() -> None:
        batcher = batching.MicroBatcher(model, window=60, max_batch=8, max_pending=16, turn_seconds=5)
        batcher.start()
        await asyncio.sleep(0)
        async with asyncio.timeout(2):
            await batcher.close()

    asyncio.run(main())
