"""An agent gateway for Python: clients, devices and agents behind one long-lived process."""

__version__ = "0.1.0"
