"""The errors a user can meet. The command line catches `JanoscopeError` once; anything else is our bug, traceback and all."""


class JanoscopeError(Exception):
    """What failed with its value, why it cannot work, how to fix it: one line."""


class InputError(JanoscopeError):
    """A file, option or argument cannot be used as it is."""


class RecordingError(JanoscopeError):
    """A recording cannot be opened, trusted or written."""


class ExecutionError(JanoscopeError):
    """The executor met a model or call that it cannot accelerate correctly, and stopped."""


class TaskFailed(JanoscopeError):
    """Work in another process ended without a result: a worker that was lost, a library's fault there."""


class PeerFailed(ExecutionError):
    """The other process of a pair failed in this generation; its own message says why. The next generation can go on."""


class PeerLost(JanoscopeError):
    """The other process of a pair is gone, late or at another place; this one cannot go on."""


# the advice wherever a sampler gives no weights to correct skipped outputs with
FORECAST_INSTEAD = 'take output = "forecast", or another sampler with --scheduler'
