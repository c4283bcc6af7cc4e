"""Know which signals end a process."""

import signal


def ending_signals() -> tuple[signal.Signals, ...]:
    """List Ctrl-C, SIGTERM and a hangup; the last not where it is passed over, as under `nohup`."""
    always = (signal.SIGINT, signal.SIGTERM)
    kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return always if kept else (*always, signal.SIGHUP)
