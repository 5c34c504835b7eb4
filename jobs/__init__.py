"""Jobs: thin entry points, run as `rayrec X` or `ray job submit -- python -m jobs.X`."""

import signal
import threading

# A shell that starts a job in the background lets it ignore SIGINT: an explicit `kill -INT` must end it all the same,
# also while modules are imported. Afterwards `rayrec.ray_support.stop_signals` handles it.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
