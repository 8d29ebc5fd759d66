"""Run one command, and print what it took, as JSON, after whatever it printed itself.

This is a small process for a reason: on Linux a child's peak of resident memory begins with what its parent has
resident, and a parent that has imported a few libraries would hide what a small tool needs. Run it with ``-I -S``.
"""

import os
import sys
import time


def main() -> int:
    """Run ``sys.argv[1:]``; return its exit status."""
    start = time.perf_counter()
    child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - start
    cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    print(f'{{"wall": {wall}, "cpu": {cpu}, "peak": {peak}}}', flush=True)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main())
