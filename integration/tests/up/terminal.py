"""Runs a program on a terminal of its own, presses Ctrl-C when the text FIRST has been on the screen and SECONDS more are over.

Arguments: FIRST SECONDS PROGRAM ARGUMENT... Prints what was on the screen, without control sequences, and at last how many seconds
after Ctrl-C the program ended. Exits like the program.
"""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import time

first, seconds, program = sys.argv[1].encode(), float(sys.argv[2]), sys.argv[3:]
pid, terminal = pty.fork()
if pid == 0:
    os.execv(program[0], program)
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 220, 0, 0))
os.set_blocking(terminal, False)

screen, press_at, pressed = b"", None, None
while True:
    try:
        seen = os.read(terminal, 1 << 16)
        if not seen:
            break
        screen += seen
    except BlockingIOError:
        time.sleep(0.02)
    except OSError:
        break  # EIO: the program and all that it started are gone.
    if press_at is None and first in screen:
        press_at = time.monotonic() + seconds
    if pressed is None and press_at is not None and time.monotonic() > press_at:
        os.write(terminal, b"\x03")
        pressed = time.monotonic()
_, status = os.waitpid(pid, 0)
print(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", screen.decode(errors="replace")))
print(f"ended after {time.monotonic() - pressed:.2f} s" if pressed else "ended by itself")
sys.exit(os.waitstatus_to_exitcode(status))
