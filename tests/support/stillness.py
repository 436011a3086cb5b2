"""Notices when the whole machine stands still, as a virtual machine does when its host pauses it."""
import threading
import time

# A busy machine is never late by as much; one that stood still for so long has tested and measured nothing.
STILL_SECONDS_MAX = 1.0


class Stillness:
    """While it is entered a thread sleeps for moments and finds out when seconds have gone by instead."""

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
