"""Plugins of the gateway: instances of the ``I*Factory`` interfaces.

Third parties add a module to this package by shipping ``gateway/plugins/theirs.py`` (without an
``__init__.py``) in a distribution of their own.
"""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
