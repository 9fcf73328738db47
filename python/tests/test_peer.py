"""One process: what each call does, and what it refuses."""

import errno
import gc
import threading

import pytest

import bus1


@pytest.fixture
def pair():
    """A peer with a node, another with a handle to it."""
    with bus1.Peer() as owner, bus1.Peer() as sender:
        with owner.node(tag=9) as node, node.handle() as own:
            handle = own.give(sender)
            own.release()
            yield owner, node, sender, handle


def test_a_payload_is_a_read_only_view(pair):
    owner, node, sender, handle = pair
    handle.send(bytearray(b"hello"))
    handle.send(memoryview(b"")[:])
    message = owner.receive(timeout=10)
    assert message.payload.readonly and message.payload[1:3] == b"el"
    assert (message.node, message.tag, len(message)) == (node.id, 9, 5)
    with pytest.raises(TypeError):
        message.payload[0] = 1
    message.give_back()
    message.give_back()
    with pytest.raises(ValueError):
        message.payload
    with owner.receive(timeout=10) as empty:
        assert bytes(empty) == b""
    assert owner.try_receive() is None


def test_a_view_outlives_message_and_peer():
    with bus1.Peer() as peer, peer.node() as node, node.handle() as handle:
        handle.send(b"stays")
        view = peer.receive(timeout=10).payload
    gc.collect()
    assert bytes(view) == b"stays"


def test_what_is_no_bytes_is_refused(pair):
    _, _, _, handle = pair
    for wrong in ("text", 1, None):
        with pytest.raises(TypeError):
            handle.send(wrong)


def test_errors_say_what_and_which(pair):
    owner, node, sender, handle = pair
    owner.set_limit("handles", 1)
    with node.handle():
        with pytest.raises(bus1.OverQuota) as refused:
            node.handle()
    error = refused.value
    assert (error.errno, error.resource, error.used, error.limit) == (errno.EDQUOT, "handles", 1, 1)
    assert "handles: 1 used of 1" in str(error)
    with pytest.raises(TimeoutError):
        owner.receive(timeout=0.01)
    with pytest.raises(bus1.TimedOut):
        sender.look_up("nobody", timeout=0.01)
    node.publish("once")
    with pytest.raises(bus1.NameTaken):
        node.publish("once")
    sender.close()
    with pytest.raises(bus1.Closed):
        handle.send(b"x")
    handle.release()


def test_a_transaction_is_all_or_nothing(pair):
    owner, node, sender, handle = pair
    with bus1.Peer() as third:
        gone = sender.node()
        with gone.handle() as own:
            lost = own.give(sender)
        sender.release(gone)
        transaction = sender.transaction()
        transaction.send(handle, b"never")
        transaction.send(lost, b"never")
        with pytest.raises(bus1.Error):
            transaction.commit()
        assert owner.try_receive() is None
        stamp, refused = transaction.commit_each()
        assert [place for place, _ in refused] == [1]
        with owner.receive(timeout=10) as message:
            assert message.stamp == stamp
        with pytest.raises(RuntimeError):
            with sender.transaction() as transaction:
                transaction.send(handle, b"never")
                raise RuntimeError
        assert owner.try_receive() is None
        assert third.try_receive() is None


def test_a_slice_is_moved_and_forwarded(pair):
    owner, node, sender, handle = pair
    with sender.loan(100_000) as slice:
        slice.memory[:5] = b"start"
        window = slice.memory[2:]
        with pytest.raises(BufferError):
            slice.send(handle)
        window.release()
        del window
        slice.shorten(99_999)
        slice.send(handle)
        with pytest.raises(ValueError):
            slice.memory
    message = owner.receive(timeout=10)
    assert len(message) == 99_999 and message.payload[:5] == b"start"
    with sender.node(tag=1) as back, back.handle() as own:
        to_sender = own.give(owner)
        forwarded = message.forward()
        assert forwarded.memory is None
        forwarded.send(to_sender)
        with sender.receive(timeout=10) as again:
            assert len(again) == 99_999 and again.payload[:5] == b"start"


def test_slices_that_are_not_sent_come_back(pair):
    sender = pair[2]
    for _ in range(1000):
        with sender.loan(1000):
            pass
        sender.loan(1000)
    gc.collect()
    assert sender.used("bytes") < 100_000


def test_handles_end_with_their_with_and_with_their_last_reference(pair):
    owner, node, sender, handle = pair
    with handle.give(sender) as copy:
        copy.send(b"one")
    owner.receive(timeout=10).give_back()
    handle.release()
    notice = owner.receive(timeout=10)
    assert (notice.kind, notice.id) == (bus1.Kind.NO_HANDLES, node.id)
    assert node.handle().detach() != 0
    node.handle()
    gc.collect()
    assert owner.used("handles") == 1


def test_the_seed_is_kept(pair):
    owner = pair[0]
    assert owner.seed() is None
    owner.set_seed(b"what matters")
    for _ in range(2):
        with owner.seed() as seed:
            assert bytes(seed) == b"what matters"
    owner.reset(keep_seed=False)
    assert owner.seed() is None


def test_threads_share_a_peer(pair):
    owner, node, sender, handle = pair
    count = 2000

    def send():
        for _ in range(count):
            handle.send(b"x" * 8, timeout=60)

    threads = [threading.Thread(target=send) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3 * count):
        with owner.receive(timeout=60) as message:
            assert len(message) == 8
    for thread in threads:
        thread.join()
