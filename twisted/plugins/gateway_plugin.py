"""Makes ``twistd gateway`` known. Every twistd command imports this file, so it holds strings only."""

from twisted.application.service import ServiceMaker

gateway = ServiceMaker(
    "Gateway", "gateway.tap", "An agent gateway for clients, devices and AI agents.", "gateway"
)
