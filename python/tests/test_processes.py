"""Two unrelated processes."""

import asyncio
import os
import pathlib
import sys

import pytest

import bus1
import bus1.aio


def test_a_request_is_answered_and_a_dropped_one_is_told(other):
    echo = other("echo")
    with bus1.Peer() as peer, peer.node(tag=4) as replies:
        service = peer.look_up("echo", timeout=60)
        for text, kind in [(b"hello", None), (b"drop", bus1.Kind.REPLY_LOST)]:
            with peer.transaction() as request:
                request.send(service, text, reply_to=replies)
            with peer.receive(timeout=60) as answer:
                if kind is None:
                    assert bytes(answer) == text.upper()
                    assert answer.tag == 4
                    assert answer.uid == os.geteuid() and answer.pid == echo.process.pid
                    assert service.owner == (os.geteuid(), echo.process.pid)
                else:
                    assert (answer.kind, answer.id) == (kind, replies.id)
        service.send(b"end")
        assert echo.ended() == 0
        # Its node went with it: the holder is told.
        notice = peer.receive(timeout=60)
        assert (notice.kind, notice.id) == (bus1.Kind.NODE_RELEASED, service.id)
        with pytest.raises(bus1.NoSuchHandle):
            service.send(b"anybody?")


def test_frames_are_read_in_place_and_stay_while_an_array_looks_at_them(other):
    numpy = pytest.importorskip("numpy")
    with bus1.Peer() as peer, peer.node() as node:
        node.publish("viewer")
        sender = other("frames", "20")
        kept = None
        for number in range(20):
            frame = peer.receive(timeout=60)
            while isinstance(frame, bus1.Notice):
                frame = peer.receive(timeout=60)
            array = numpy.frombuffer(frame.payload, numpy.uint8)
            assert not array.flags.writeable and not array.flags.owndata
            assert array.size == 1 << 20 and (array == number).all()
            if number == 3:
                kept = array
            frame.give_back()
            with pytest.raises(ValueError):
                frame.payload
        # Given back by its message, and held by the array: nobody has written there.
        assert (kept == 3).all()
        assert sender.ended() == 0


def test_a_handle_that_came_in_a_message_leads_to_its_sender(other):
    with bus1.Peer() as peer, peer.node() as node:
        node.publish("meeting")
        visitor = other("introduce")
        with peer.receive(timeout=60) as message:
            assert message.handle_count == 1
            handle = message.take_handle()
            with pytest.raises(bus1.Error):
                message.take_handle()
        handle.send(b"hello")
        assert visitor.ended() == 0


def test_a_program_that_is_spawned_inherits_handles():
    with bus1.Peer() as peer, peer.node() as node, node.handle() as handle:
        script = str(pathlib.Path(__file__).with_name("other.py"))
        pid, fd = peer.spawn(sys.executable, [script, "inherited"], giving=[handle])
        with peer.receive(timeout=60) as message:
            assert bytes(message) == b"inherited" and message.pid == pid
        assert os.waitpid(pid, 0)[1] == 0
        os.close(fd)


def test_asyncio_receives_what_another_process_sends(other):
    count = 5000

    async def run():
        async with bus1.aio.Peer() as peer:
            with peer.node() as node:
                node.publish("counter")
                sender = other("many", str(count))
                ticks = 0

                async def tick():
                    nonlocal ticks
                    while True:
                        ticks += 1
                        await asyncio.sleep(0.001)

                ticking = asyncio.create_task(tick())
                expected = 0
                async for message in peer:
                    with message:
                        if isinstance(message, bus1.Notice):
                            continue
                        assert int.from_bytes(message.payload, "little") == expected
                        expected += 1
                    if expected == count:
                        break
                ticking.cancel()
                assert ticks > 0
                # The last sender is gone: so says a notice, at once or in a while.
                notice = await asyncio.wait_for(peer.receive(), 60)
                assert notice.kind == bus1.Kind.NO_HANDLES
                return sender

    sender = asyncio.run(run())
    assert sender.ended() == 0


def test_a_wait_that_is_cancelled_leaves_the_next_one_alone():
    async def run():
        async with bus1.aio.Peer() as peer:
            with peer.node() as node, node.handle() as handle:
                for _ in range(3):
                    waiting = asyncio.create_task(peer.receive())
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    assert not waiting.done()
                    waiting.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await waiting
                # Two wait, and each gets one.
                both = [asyncio.create_task(peer.receive()) for _ in range(2)]
                await asyncio.sleep(0)
                handle.try_send(b"1")
                handle.try_send(b"2")
                texts = [bytes(message) for message in await asyncio.gather(*both)]
                assert sorted(texts) == [b"1", b"2"]

    asyncio.run(asyncio.wait_for(run(), 60))
