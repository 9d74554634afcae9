"""Calls at the same moment."""

import threading


def race(call, count):
    """Call `call(k)` in `count` threads at the same moment; returns after the last."""
    barrier = threading.Barrier(count)

    def begin(k):
        barrier.wait()
        call(k)

    threads = [threading.Thread(target=begin, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
