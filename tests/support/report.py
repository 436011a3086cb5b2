"""Counts passed and failed cases, one line per case, in the form that tests/run adds up."""
import sys
import time
import traceback

from stillness import Stillness


class Report:
    """Collects cases; `close` prints "N passed, N failed" and returns the exit code."""

    def __init__(self):
        self.passed, self.failed = 0, 0
        # By name whether the case passed.
        self.results = {}

    def ok(self, name, note=""):
        self.passed += 1
        self.results[name] = True
        print(f"ok   {name}{'  ' + note if note else ''}", flush=True)

    def fail(self, name, reason):
        self.failed += 1
        self.results[name] = False
        print(f"FAIL {name}: {reason}", flush=True)

    def check(self, name, condition, reason="", note=""):
        if condition:
            self.ok(name, note)
        else:
            self.fail(name, reason)
        return bool(condition)

    def case(self, name, function, *args, **kwargs):
        """Runs `function`; its return value is the note, an exception is the failure. A failure during a stall of the machine
        says nothing about the broker: the case is run once more."""
        for repeated in (False, True):
            started = time.monotonic()
            with Stillness() as watch:
                try:
                    note, failure = function(*args, **kwargs) or "", None
                except Exception as error:  # a case that breaks is a failed case, the next one still runs
                    failure = error
                    if not isinstance(error, AssertionError):
                        traceback.print_exc(limit=4, file=sys.stdout)
            if failure is None:
                self.ok(name, f"{note} ({time.monotonic() - started:.1f} s)".strip())
                return True
            if repeated or not watch.disturbed:
                self.fail(name, f"{type(failure).__name__}: {failure}")
                return False
            print(f"     {name}: the machine stood still for {watch.longest_s:.1f} s, once more", flush=True)

    def close(self):
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 0 if self.failed == 0 and self.passed > 0 else 1
