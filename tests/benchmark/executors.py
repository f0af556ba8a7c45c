"""Executors that start nothing, for tests of what the runner makes of how launches end."""


class Handled:
    """Its own handle for all launches. Subclasses say by ``poll()`` how they end."""

    def start(self, launches):
        return [self for _ in launches]

    def adopt(self, launch):
        return None

    def begun(self):
        return True
