"""Detects stalls of the whole machine, for example when a virtual machine's host pauses it."""
import threading
import time

# Longer than any delay of a busy machine; measurements and tests during such a stall are invalid.
STILL_SECONDS_MAX = 1.0


class Stillness:
    """While entered, a thread sleeps briefly in a loop and detects when seconds have passed instead."""

    def __enter__(self):
        self.longest_s, self.done = 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self):
        before = time.monotonic()
        while not self.done.wait(0.02):
            now = time.monotonic()
            self.longest_s, before = max(self.longest_s, now - before), now

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    @property
    def disturbed(self):
        return self.longest_s > STILL_SECONDS_MAX
