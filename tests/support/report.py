"""Counting what passed and failed, one line per case, in the form that tests/run adds up."""
import sys
import time
import traceback


class Report:
    """Collects cases; `close` prints "N passed, N failed" and gives the exit code."""

    def __init__(self):
        self.passed, self.failed = 0, 0

    def ok(self, name, note=""):
        self.passed += 1
        print(f"ok   {name}{'  ' + note if note else ''}", flush=True)

    def fail(self, name, reason):
        self.failed += 1
        print(f"FAIL {name}: {reason}", flush=True)

    def check(self, name, condition, reason="", note=""):
        if condition:
            self.ok(name, note)
        else:
            self.fail(name, reason)
        return bool(condition)

    def case(self, name, function, *args, **kwargs):
        """Runs `function`; what it returns is the note, what it raises is the failure."""
        started = time.monotonic()
        try:
            note = function(*args, **kwargs) or ""
        except Exception as error:  # a case that breaks is a failed case, the next one still runs
            if not isinstance(error, AssertionError):
                traceback.print_exc(limit=4, file=sys.stdout)
            self.fail(name, f"{type(error).__name__}: {error}")
            return False
        self.ok(name, f"{note} ({time.monotonic() - started:.1f} s)".strip())
        return True

    def close(self):
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 0 if self.failed == 0 and self.passed > 0 else 1
